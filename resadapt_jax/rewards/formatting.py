"""The format reward: did the model think first and then answer, in the tags it was asked for."""

import re

_SEAM = re.compile(r"</think>\s*<answer>")


def format_reward(output: str, *, require_boxed: bool = False) -> float:
    """1 for a think block followed by an answer block and nothing else, 0 if not, -1 if malformed.

    Malformed means that as many think or answer tags are opened as are not closed. The paper also
    asks for a ``\\boxed{}`` in the answer; the released code does not.
    """
    for tag in ("think", "answer"):
        if output.count(f"<{tag}>") != output.count(f"</{tag}>"):
            return -1.0
    text = output.strip()
    enclosed = text.startswith("<think>") and text.endswith("</answer>")
    if not enclosed or _SEAM.search(text) is None:
        return 0.0
    answer = text.rpartition("<answer>")[2]
    return 0.0 if require_boxed and "\\boxed{" not in answer else 1.0
