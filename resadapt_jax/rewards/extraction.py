"""Finds the answer inside what a model wrote.

Every pattern is linear in the text's length and the text is capped, so that no output, however
odd, can raise or stall.
"""

import re

# An answer stands at the end of an output, which is a few thousand tokens at most.
MAX_OUTPUT_CHARS = 1 << 16
MAX_ANSWER_CHARS = 1 << 12

_THINK, _THINK_END = "<think>", "</think>"
_ANSWER, _ANSWER_END = "<answer>", "</answer>"
_BOX = "\\boxed{"
_CUE = re.compile(
    r"(?:\banswers?[ \t]{0,4}(?:(?:is|are)\b|[:：])|答案[ \t]{0,4}(?:是|为|[:：]))[ \t]{0,4}[:：]?",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^[ \t]{0,8}```[^\n]*$", re.MULTILINE)


def extract_answer(output: str) -> str:
    """The answer of a one-line kind: what follows the reasoning, narrowed as far as it is marked.

    After the last closing think tag, inside the first answer block; there the last ``\\boxed{}``,
    else what follows the last "answer is" cue, else the last line that is not empty.
    """
    region = _narrow(output)
    boxed = last_boxed(region)
    if boxed is not None:
        return boxed[:MAX_ANSWER_CHARS].strip()
    cues = list(_CUE.finditer(region))
    if cues:
        after = _lines(region[cues[-1].end() :])
        if after:
            return after[0][:MAX_ANSWER_CHARS]
    lines = _lines(region)
    return lines[-1][:MAX_ANSWER_CHARS] if lines else ""


def extract_passage(output: str) -> str:
    """The answer of a kind that may span lines: code fences and a box are taken off, no more.

    Of reasoning that is never closed nothing is an answer. Of a long passage the end is kept.
    """
    region = _FENCE.sub("", _narrow(output).partition(_THINK)[0])
    boxed = last_boxed(region)
    return (region if boxed is None else boxed)[-MAX_ANSWER_CHARS:].strip()


def last_boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{...}``, braces balanced; None if absent or never closed."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    depth = 1
    content = text[start + len(_BOX) :]
    for position, char in enumerate(content):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return content[:position]
    return None


def _narrow(output: str) -> str:
    """What follows the last closing think tag, and of that the first answer block if there is one.

    Of blocks inside one another the innermost counts; one that is never closed reaches to the end.
    """
    text = output[-MAX_OUTPUT_CHARS:].rpartition(_THINK_END)[2]
    _, opened, block = text.partition(_ANSWER)
    return block.partition(_ANSWER_END)[0].rpartition(_ANSWER)[2] if opened else text


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
