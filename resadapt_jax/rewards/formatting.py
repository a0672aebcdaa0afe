"""The format reward: did the model think first and then answer, in the tags it was asked for."""

import re
from typing import Literal

from resadapt_jax.rewards.extraction import last_boxed

_SEAM = re.compile(r"</think>\s*<answer>")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def format_reward(
    output: str, form: Literal["paper", "released"] = "released", malformed: float = -1.0
) -> float:
    """1 for a think block followed by an answer block and nothing else, 0 if not.

    released: the blocks may hold anything, further tags included; paper: each tag occurs once, and
    the last ``\\boxed{}`` of the answer is closed and holds something. Words beside it may stay.

    Args:
      malformed: what an output gets of which as many think or answer tags are opened as are not
        closed. The paper gives its penalty no value; the released code's is -1.
    """
    counts = [output.count(tag) for tag in _TAGS]
    if counts[0] != counts[1] or counts[2] != counts[3]:
        return malformed
    text = output.strip()
    enclosed = text.startswith("<think>") and text.endswith("</answer>")
    if not enclosed or _SEAM.search(text) is None:
        return 0.0
    if form == "released":
        return 1.0
    boxed = last_boxed(text.rpartition("<answer>")[2])
    return float(bool(boxed and boxed.strip()) and counts == [1, 1, 1, 1])
