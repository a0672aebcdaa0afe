"""When two texts say the same: their words, numbers and signs, without their punctuation."""

import functools
import re
import unicodedata
from typing import NamedTuple

from resadapt_jax.rewards.text import plain, unwrap_latex

_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_FRACTION = re.compile("[¼-¾⅐-⅞]")
_BRACKET = re.compile(r"[()\[\]{}]")
# One mark before a number may be a sign; marks before several lines are bullets.
_BULLET = re.compile(r"^[ \t]*[-*][ \t]+", re.MULTILINE)
_BULLET_OF_WORD = re.compile(r"^[ \t]*[-*][ \t]+(?=[^\W\d_]{2})", re.MULTILINE)

_TOKEN = re.compile(
    r"(?P<number>[0-9]+(?:[.:/][0-9]+)*|(?<![\w.])\.[0-9]+)"
    r"|(?P<word>[ai](?=[ ]+[^\W\d_]{2}))"  # the article and the pronoun
    r"|(?P<operand>\\[a-z]+|(?:[a-zα-ω]|sqrt|sin|cos|tan|log|ln|exp|pi)(?![^\W_]))"
    r"|(?P<other_word>[^\W_]+)"
    r"|(?P<dash>[-−]+)|(?P<bar>\|+)|(?P<bang>!+)|(?P<hash>#+)"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])"
    r"|(?P<suffix>[%°‰‱♭♮∞])|(?P<sign>[*/^])|(?P<mark>[^\s])"
)
_TYPOGRAPHIC = re.compile("[~∙\u25a0-\u25ff]")


_STARTS = {"number", "operand", "sign", "suffix", "open", "bar"}
_ENDS = {"number", "operand", "suffix", "close", "bar", "bang"}


class _Token(NamedTuple):
    """A piece of a line; ``start`` and ``end`` tell what touches what."""

    kind: str
    text: str
    start: int
    end: int


_NOTHING = _Token("nothing", "", -1, -1)


def same_text(first: str, second: str) -> bool:
    """Whether two strings have the same words, numbers and signs, in order.

    Case, punctuation and spacing are passed over. Signs are what Unicode calls mathematical
    symbols and currencies, also % ° ‰ * / ^, and these where they carry meaning:

    * a dash that starts an operand ("-5", "-x", "= -√2") or joins two ("10 - 3", "x-y"), operands
      being numbers, lone letters, functions, LaTeX commands and what is in brackets or bars. A
      hyphen after a word, a dash before one and a bullet mean nothing;
    * "!" after a number or a lone letter, and before "=";
    * "|" right beside an operand, or between two;
    * "#" right after a letter or a number, as in "C#".

    Brackets count where both strings have numbers in some.
    """
    signs = counted_signs(first), counted_signs(second)
    if not any(signs):
        return bool(first.strip()) and first.strip() == second.strip()
    return signs[0] == signs[1] and _same_brackets(first, second)


@functools.lru_cache(maxsize=256)
def counted_signs(text: str) -> tuple[str, ...]:
    """The words, numbers and signs of ``text`` that count, in order; lines stand for themselves."""
    folded = _fold(text)
    bullet = _BULLET if len(_BULLET.findall(folded)) > 1 else _BULLET_OF_WORD
    counted = []
    for line in bullet.sub("", folded).splitlines():
        tokens = [_NOTHING, *map(_token, _TOKEN.finditer(line)), _NOTHING]
        for place in range(1, len(tokens) - 1):
            if _counts(tokens, place):
                token = tokens[place]
                counted.append("-" if token.kind == "dash" else token.text.lstrip("\\"))
    return tuple(counted)


def _fold(text: str) -> str:
    text = unwrap_latex(plain(text))
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda found: f"^{found[0]}", text)
        text = _FRACTION.sub(lambda found: f" {found[0]}", text)
        text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
    return _THOUSANDS.sub("", text.casefold())


def _token(found: re.Match[str]) -> _Token:
    kind, text = found.lastgroup, found[0]
    if kind == "mark" and unicodedata.category(text) in ("Sm", "Sc"):
        kind = "mark" if _TYPOGRAPHIC.match(text) else "sign"
    return _Token(kind.removeprefix("other_"), text, *found.span())


def _counts(tokens: list[_Token], place: int) -> bool:
    before, token, after = tokens[place - 1 : place + 2]
    match token.kind:
        case "dash":
            return _is_minus(before, token, after)
        case "bar":
            beside = before.end == token.start and before.kind in _ENDS
            beside = beside or (token.end == after.start and after.kind in _STARTS | {"dash"})
            return beside or (before.kind in _ENDS and after.kind in _STARTS)
        case "bang":
            if before.kind == "close":  # as of (n+1)!
                before = tokens[place - 2]._replace(end=before.end)
            glued = before.end == token.start
            return after.text == "=" or (glued and before.kind in ("number", "operand"))
        case "hash":
            return before.end == token.start and before.kind in ("number", "operand", "word")
    return token.kind in ("number", "word", "operand", "sign", "suffix")


def _is_minus(before: _Token, dash: _Token, after: _Token) -> bool:
    if after.kind not in _STARTS:
        return False
    touches = before.end == dash.start, dash.end == after.start
    if before.kind in _ENDS:
        return touches[1] or after.kind != "open"
    if before.kind == "word":
        return touches == (False, True)
    if touches[1]:
        return True
    starts = before.kind in ("nothing", "open", "sign") or before.text == ","
    return starts and (after.kind in ("number", "sign", "suffix") or after.text[0] == "\\")


def _same_brackets(first: str, second: str) -> bool:
    brackets = [_BRACKET.findall(text) for text in (first, second)]
    numbers = all(any(char.isdigit() for char in text) for text in (first, second))
    return not (numbers and all(brackets)) or brackets[0] == brackets[1]
