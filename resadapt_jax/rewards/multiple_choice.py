"""Multiple choice: which letters did the answer name."""

import re
from typing import Literal

from resadapt_jax.rewards.text import same_text

# ASCII neighbours only, so that a letter next to Chinese text still stands alone.
_LETTER = re.compile(r"(?<![A-Za-z0-9_'’])[A-Z](?![A-Za-z0-9_'’])")


def multiple_choice(
    answer: str, truth: str, form: Literal["paper", "released"] = "released"
) -> float:
    """How well the stand-alone capital letters of ``answer`` match those of ``truth``.

    released: F1 = 2|A∩T| / (|A| + |T|) of the two sets; paper: 1 if the sets are equal.
    A truth without letters is compared as text, without case, punctuation and spacing.
    """
    expected = set(_LETTER.findall(truth))
    if not expected:
        return float(same_text(answer, truth))
    named = set(_LETTER.findall(answer))
    if form == "paper":
        return float(named == expected)
    return 2.0 * len(named & expected) / (len(named) + len(expected))
