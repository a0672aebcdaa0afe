"""Text read off a picture: how many of its words are right."""

import re

import numpy as np

from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.text import plain

MAX_WORDS = 1024
"""Of a longer truth the first so many words count."""

# Chinese and Japanese are written without spaces: there a character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def ocr(answer: str, truth: str) -> Grade:
    """1 - word error rate, at least 0: edits over the number of words in ``truth``.

    An edit inserts, deletes or replaces a word. Case and punctuation count, line breaks do not.
    """
    read, written = (_WORD.findall(plain(text)) for text in (answer, truth))
    written = written[:MAX_WORDS]
    if not written:
        return Grade(accuracy=0.0, reason="no words in truth", extracted=" ".join(read))
    # So many more words are that many insertions, whatever they are.
    edits = len(written) if len(read) >= 2 * len(written) else _edit_distance(read, written)
    reason = f"{edits} edits to {len(written)} words"
    accuracy = max(0.0, 1.0 - edits / len(written))
    return Grade(accuracy=accuracy, reason=reason, extracted=" ".join(read))


def _edit_distance(first: list[str], second: list[str]) -> int:
    """Levenshtein distance of two sequences of words, row by row."""
    ids = {word: index for index, word in enumerate({*first, *second})}
    across = np.array([ids[word] for word in first], int)
    places = np.arange(len(first) + 1)
    row = places
    for word in second:
        reached = row + 1
        np.minimum(reached[1:], row[:-1] + (across != ids[word]), out=reached[1:])
        # an insertion continues a row: the least of what stands to the left, one more per step
        row = np.minimum.accumulate(reached - places) + places
    return int(row[-1])
