"""Multiple choice: which letters did the answer name."""

import re
from typing import Literal

from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.text import brief, plain, same_text, unwrap_latex

# ASCII neighbours only, so that a letter next to Chinese text still stands alone.
_LETTER = re.compile(r"(?<![A-Za-z0-9_'\\])[A-Z](?![A-Za-z0-9_'])")

_OPTION = re.compile(r"[(\[]?([A-Z])(?:[)\].:].*)?", re.DOTALL)


def multiple_choice(
    answer: str, truth: str, form: Literal["paper", "released"] = "released"
) -> Grade:
    """How well the stand-alone capital letters of ``answer`` match those of ``truth``.

    released: F1 = 2|A∩T| / (|A| + |T|) of the two sets; paper: 1 if the sets are equal.
    A truth without letters is compared as text, without case, punctuation and spacing.
    """
    answer, truth = plain(answer), plain(truth)
    expected = set(_LETTER.findall(truth))
    if not expected:
        reason = f"text {brief(answer)} vs {brief(truth)}"
        return Grade(accuracy=float(same_text(answer, truth)), reason=reason, extracted=answer)
    named = set(_LETTER.findall(answer))
    if form == "paper":
        accuracy = float(named == expected)
    else:
        accuracy = 2.0 * len(named & expected) / (len(named) + len(expected))
    reason = f"letters {_braced(named)} vs {_braced(expected)}" if named else "no letter named"
    return Grade(accuracy=accuracy, reason=reason, extracted=", ".join(sorted(named)))


def option_letter(text: str) -> str | None:
    """The letter of a text that is an option: "B", "(B)", "B. the red sign"; None of any other."""
    found = _OPTION.fullmatch(unwrap_latex(plain(text)))
    return found and found[1]


def _braced(letters: set[str]) -> str:
    return "{" + ", ".join(sorted(letters)) + "}"
