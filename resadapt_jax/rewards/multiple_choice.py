"""Multiple choice: which options did the answer name."""

import re
from typing import Literal

from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.same_text import same_text
from resadapt_jax.rewards.text import brief, plain, unwrap_latex

# ASCII neighbours only, so that a letter next to Chinese text still stands alone.
_LETTER = re.compile(r"(?<![A-Za-z0-9_'\\])[A-Z](?![A-Za-z0-9_'#]|\+\+)")
_ARTICLE = re.compile(r"A (?!and\b|or\b)[a-z]")

_OPTION = re.compile(r"[(\[]?([A-Z])(?:[)\].:].*)?", re.DOTALL)
_SMALL_OPTION = re.compile(r"[(\[]?([a-z])[)\].:*]*")
# "A. red, C. blue" names two, "D. both A and C." one.
_LEADING = re.compile(r"(?:[(\[]?[A-Z][)\].:](?![A-Za-z0-9])[\s,;/]*(?:(?:and|or)\s+)?)+")
_LATER = re.compile(r"(?:[\n,;]|\band\b|\bor\b)[ ]*[(\[]?([A-Z])[)\].:](?=[ ]+[^\s])")


def multiple_choice(answer: str, truth: str, form: Literal["paper", "released"] = "paper") -> Grade:
    """How well the option letters of ``answer`` match those of ``truth``.

    paper: 1 if the sets of letters are equal, and an answer that is nothing but a small letter
    names that option; released: F1 = 2|A∩T| / (|A| + |T|) of the sets.

    Of a text that starts with an option ("C. A man runs") the letters are those so marked, of any
    other all capital letters that stand alone. A truth that has none, or an article at its start,
    is compared as text.
    """
    answer, truth = plain(answer), plain(truth)
    expected = set() if _ARTICLE.match(truth) else _letters(truth)
    if not expected:
        reason = f"text {brief(answer)} vs {brief(truth)}"
        return Grade(accuracy=float(same_text(answer, truth)), reason=reason, extracted=answer)
    named = _letters(answer)
    small = _SMALL_OPTION.fullmatch(unwrap_latex(answer))
    if form == "paper":
        named = {small[1].upper()} if small else named
        accuracy = float(named == expected)
    else:
        accuracy = 2.0 * len(named & expected) / (len(named) + len(expected))
    reason = f"letters {_braced(named)} vs {_braced(expected)}" if named else "no letter named"
    return Grade(accuracy=accuracy, reason=reason, extracted=", ".join(sorted(named)))


def option_letter(text: str) -> str | None:
    """The letter of a text that is an option: "B", "(B)", "B. the red sign"; None of any other."""
    found = _OPTION.fullmatch(unwrap_latex(plain(text)))
    return found and found[1]


def _letters(text: str) -> set[str]:
    leading = _LEADING.match(unwrap_latex(text))
    if leading is None:
        return set(_LETTER.findall(text))
    return {*filter(str.isupper, leading[0]), *_LATER.findall(text)}


def _braced(letters: set[str]) -> str:
    return "{" + ", ".join(sorted(letters)) + "}"
