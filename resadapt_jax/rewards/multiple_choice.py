"""Multiple choice: which options did the answer name."""

import re
from typing import Literal, NamedTuple

from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.same_text import same_text
from resadapt_jax.rewards.text import brief, plain, unwrap_latex

# ASCII neighbours only, so that a letter next to Chinese text still stands alone.
_LETTER = re.compile(r"(?<![A-Za-z0-9_'\\])[A-Z](?![A-Za-z0-9_'#]|\+\+)")
# "I think", but neither "option I fits" nor "I is right", "I or J".
_PRONOUN = re.compile(
    r"(?<![Oo]ption )\bI (?!(?:is|are|and|or|because|since|as|fits|seems|looks|matches)\b)(?=[a-z])"
)
_ARTICLE = re.compile(r"A (?!and\b|or\b)[a-z]")

_OPTION = re.compile(r"[(\[]?([A-Z])(?:[)\].:](.*))?", re.DOTALL)
_SMALL_OPTION = re.compile(r"(?:[Oo]ption )?[(\[]?([a-z])[)\].:*]*")
# "ACD"; what has a letter twice or does not rise is a word or a code.
_RUN = re.compile("(?=[A-Z]{2})A?B?C?D?E?F?G?H?I?J?K?L?M?N?O?P?Q?R?S?T?U?V?W?X?Y?Z?[.]?")
# "A. red, C. blue" names two, "D. both A and C." one.
_LEADING = re.compile(r"(?:[(\[]?[A-Z][)\].:](?![A-Za-z0-9])[\s,;/]*(?:(?:and|or)\s+)?)+")
_LATER = re.compile(r"(?:[\n,;]|\band\b|\bor\b)[ ]*[(\[]?([A-Z])[)\].:](?=[ ]+[^\s])")


def multiple_choice(answer: str, truth: str, form: Literal["paper", "released"] = "paper") -> Grade:
    """How well the option letters of ``answer`` match those of ``truth``.

    paper: 1 if the sets of letters are equal; an answer that is nothing but a small letter names
    that option, capitals in rising order ("ACD") are a letter each, on both sides, and the pronoun
    I is none. released: F1 = 2|A∩T| / (|A| + |T|) of the sets.

    Of a text that starts with an option ("C. A man runs") the letters are those so marked, of any
    other all capital letters that stand alone. A truth that has none, or an article at its start,
    is compared as text.
    """
    answer, truth = plain(answer), plain(truth)
    expected = set() if _ARTICLE.match(truth) else _letters(truth, form)
    if not expected:
        reason = f"text {brief(answer)} vs {brief(truth)}"
        return Grade(accuracy=float(same_text(answer, truth)), reason=reason, extracted=answer)
    named = _letters(answer, form)
    if form == "paper":
        small = _SMALL_OPTION.fullmatch(unwrap_latex(answer))
        named = {small[1].upper()} if small else named
        # "NO" may be a word
        same_word = _RUN.fullmatch(truth) is not None and same_text(answer, truth)
        accuracy = float(named == expected or same_word)
    else:
        accuracy = 2.0 * len(named & expected) / (len(named) + len(expected))
    reason = f"letters {_braced(named)} vs {_braced(expected)}" if named else "no letter named"
    return Grade(accuracy=accuracy, reason=reason, extracted=", ".join(sorted(named)))


class Option(NamedTuple):
    """A letter, and what the option says; empty where that is not there."""

    letter: str
    words: str

    def same(self, other: "Option") -> bool:
        """Whether letters agree, and words where both have any: "J. Bond" is not "J. Smith"."""
        said = self.words and other.words
        return self.letter == other.letter and (not said or same_text(self.words, other.words))


def parse_option(text: str) -> Option | None:
    """A text that is an option: "B", "(B)", "B. the red sign"; None of any other."""
    found = _OPTION.fullmatch(unwrap_latex(plain(text)))
    return found and Option(found[1], (found[2] or "").strip())


def _letters(text: str, form: Literal["paper", "released"]) -> set[str]:
    if form == "paper":
        text = _PRONOUN.sub("", text)
        if _RUN.fullmatch(unwrap_latex(text)):
            return set(filter(str.isupper, text))
    leading = _LEADING.match(unwrap_latex(text))
    if leading is None:
        return set(_LETTER.findall(text))
    return {*filter(str.isupper, leading[0]), *_LATER.findall(text)}


def _braced(letters: set[str]) -> str:
    return "{" + ", ".join(sorted(letters)) + "}"
