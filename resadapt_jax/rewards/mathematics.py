"""Mathematics: numbers within one part in a hundred, expressions by a checker."""

import re
import unicodedata

from resadapt_jax.rewards.expressions import Verdict, equivalent
from resadapt_jax.rewards.quantity import Quantity, parse_quantity, same_quantity
from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.same_text import same_text
from resadapt_jax.rewards.text import brief, plain

MAX_CHARS = 256
MAX_DEPTH = 8
MAX_DIGITS = 40
MAX_POWER_DIGITS = 4
"""Limits of what the checker is given: characters, brackets within brackets, digits of a number,
and digits of an exponent or of what a factorial is taken of."""

_COMMANDS = {
    "π": r"\pi ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "λ": r"\lambda ",
    "√": r"\sqrt ",
    "∞": r"\infty ",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "÷": r"\div ",
    "±": r"\pm ",
    "≤": r"\leq ",
    "≥": r"\geq ",
    "≠": r"\neq ",
    "∈": r"\in ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∅": r"\emptyset ",
    "°": r"^\circ ",
}
_SPACING = re.compile(
    r"(?<!\\)\\(?:(?:left|right|displaystyle|quad|qquad|big|Big)(?![A-Za-z])|[,;:! ()$])|\$|~"
)
_NAMES = re.compile(
    r"(?<![A-Za-z\\])(pi|sqrt|(?:arc)?(?:sin|cos|tan)|sec|csc|cot|log|ln|exp|gcd|max|min|"
    r"theta|alpha|beta|infty)(?![A-Za-z])"
)
_CONJUNCTIONS = re.compile(
    r",?[ ]?(?:(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\(?:text|mathrm)\{[ ]?(?:and|or)[ ]?\})"
)
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\\])([0-9.]{1,40})[eE]([-+]?[0-9]{1,3})(?![0-9A-Za-z])")
# Letters side by side are a product to the checker, in which "dog" equals "god".
_WORDS = re.compile(
    r"(?<![A-Za-z\\])(?:[A-Za-z]{3,}|(?:to|of|in|is|as|by|at|on|if|no|it|so)(?![A-Za-z]))"
)
_LETTERS_ALONE, _TWO_LETTERS = re.compile("[A-Za-z ,]+"), re.compile("[A-Za-z]{2}")
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]+\}|\\[A-Za-z]+")
_QUOTED = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)[ ]?\{[^{}]*\}")
_ALLOWED = re.compile(r"[A-Za-z0-9+\-*/^=<>()\[\]{}|!.,;:%'&_\\ ]+")
_LONG_NUMBER = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
# As Python groups digits; "101_2" may name a base.
_GROUPED = re.compile(r"[0-9]_(?:0|[0-9]{3})")
_HIGH_POWER = re.compile(
    rf"\^[ ]?\{{?[ ]?[-+]?[0-9]{{{MAX_POWER_DIGITS + 1}}}|[0-9]{{{MAX_POWER_DIGITS + 1}}}[ ]?\)?!"
)
_UNBRACED_TOWER = re.compile(r"\^[ ]?-?[0-9]+[ ]?\^|![ ]?[)}]{0,8}[ ]?!")
_BRACED_POWER = re.compile(r"\^[ ]?\{")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_SUBSCRIPTS = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_ROOT = re.compile("√([0-9]+)")
_OPENING, _CLOSING = "([{", ")]}"


def mathematics(answer: str, truth: str, seconds: float = 1.0) -> Grade:
    """Whether ``answer`` is the same number or an equivalent expression: 1 or 0.

    The same without spaces, or the same words; or two quantities with
    |answer - truth| ≤ max(1e-2, 1e-2·|truth|) and units that agree; or expressions that math-verify
    finds equivalent in a process of its own, constants within the same tolerance. The letter of
    "4m" is a unit if the other side has that unit too, else it is a variable.

    Args:
      seconds: CPU time that the checker may take.
    """
    answer, truth = plain(answer), plain(truth)
    given, expected = parse_quantity(answer), parse_quantity(truth)
    if given is not None and expected is not None and not _has_variable(given, expected):
        right = same_quantity(given, expected)
        reason = f"{brief(answer)} {'≈' if right else '≠'} {brief(truth)}"
        return Grade(accuracy=float(right), reason=reason, extracted=answer)
    verdict = compare_expressions(answer, truth, seconds)
    reason = f"{brief(answer)} vs {brief(truth)}: {verdict.reason}"
    return Grade(
        accuracy=float(verdict.equal),
        reason=reason,
        extracted=answer,
        decided=verdict.decided,
    )


def compare_expressions(
    answer: str,
    truth: str,
    seconds: float,
    *,
    relative: float = 1e-2,
    absolute: float = 1e-2,
) -> Verdict:
    """Whether two expressions, LaTeX or plain, are the same or equivalent; see `mathematics`."""
    given, expected = to_latex(answer), to_latex(truth)
    if not given or not expected:
        return Verdict(equal=False, reason="nothing to compare")
    if given.replace(" ", "") == expected.replace(" ", ""):
        return Verdict(equal=True, reason="the same")
    if (is_worded(given) or is_worded(expected)) and same_text(given, expected):
        return Verdict(equal=True, reason="the same text")
    for latex in (given, expected):
        why_not = refusal(latex)
        if why_not is not None:
            return Verdict(equal=False, reason=why_not)
    return equivalent(given, expected, relative=relative, absolute=absolute, seconds=seconds)


def to_latex(text: str) -> str:
    """One spelling for what plain text, Unicode and LaTeX write differently."""
    text = plain(text)
    if not text.isascii():
        text = _SUPERSCRIPTS.sub(lambda found: f"^{{{_digits(found)}}}", text)
        text = _SUBSCRIPTS.sub(lambda found: f"_{{{_digits(found)}}}", text)
        text = "".join(map(_ascii_latex, _ROOT.sub(r"\\sqrt{\1}", text)))
    text = text.replace("{,}", "").replace("\\%", "%").replace("%", "\\%").replace("**", "^")
    text = _SPACING.sub(" ", text)
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    text = _NAMES.sub(r"\\\1", _CONJUNCTIONS.sub(",", text))
    for prefix in ("\\sqrt", "^"):
        text = _brace_argument(text, prefix)
    return " ".join(text.split()).rstrip(".").strip()


def refusal(latex: str) -> str | None:
    """Why an expression is not given to the checker, None if it is."""
    if len(latex) > MAX_CHARS:
        return f"an expression of more than {MAX_CHARS} characters"
    if _ALLOWED.fullmatch(latex) is None:
        return "a character that no expression has"
    if is_worded(latex):
        return "words, not an expression"
    depth = _depth(latex)
    if depth is None:
        return "brackets that do not match"
    if depth > MAX_DEPTH:
        return f"more than {MAX_DEPTH} brackets within brackets"
    if _LONG_NUMBER.search(latex):
        return f"a number of more than {MAX_DIGITS} digits"
    if _GROUPED.search(latex):
        return "digits grouped by an underscore"
    if _HIGH_POWER.search(latex) or _is_tower(latex):
        return "a power or factorial too high to compute"
    return None


def is_worded(latex: str) -> bool:
    """Whether there are words outside commands and quoted text, or letters and nothing else, of
    which two stand side by side; such a truth is compared as text."""
    if _LETTERS_ALONE.fullmatch(latex) and _TWO_LETTERS.search(latex):
        return True
    return _WORDS.search(_COMMAND.sub(" ", _QUOTED.sub(" ", latex))) is not None


def _has_variable(given: Quantity, expected: Quantity) -> bool:
    return given.unit != expected.unit and (given.one_letter or expected.one_letter)


def _digits(found: re.Match[str]) -> str:
    return plain(unicodedata.normalize("NFKC", found[0]))


def _ascii_latex(char: str) -> str:
    if char in _COMMANDS:
        return _COMMANDS[char]
    over, slash, under = unicodedata.normalize("NFKC", char).partition("\u2044")
    return rf"\frac{{{over}}}{{{under}}}" if slash else char  # a fraction in one character


def _brace_argument(text: str, prefix: str) -> str:
    """``prefix(...)`` as ``prefix{...}``, brackets balanced; from the last to the first."""
    end = len(text)
    # as many as a legal expression can have
    for _ in range(MAX_CHARS):
        start = text.rfind(prefix, 0, end)
        if start < 0:
            break
        end = start
        opening = start + len(prefix)
        opening += text[opening : opening + 1] == " "
        closing = _matching(text, opening) if text[opening : opening + 1] == "(" else None
        if closing is not None:
            inside = text[opening + 1 : closing]
            text = f"{text[:start]}{prefix}{{{inside}}}{text[closing + 1 :]}"
    return text


def _matching(text: str, opening: int) -> int | None:
    """Where the bracket at ``opening`` is closed, within the length of a legal expression."""
    depth = 0
    for place in range(opening, min(len(text), opening + MAX_CHARS)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return None


def _depth(latex: str) -> int | None:
    """How deep brackets lie in brackets; None if one is not closed. Half-open intervals are."""
    depth = deepest = 0
    for char in latex:
        depth += (char in _OPENING) - (char in _CLOSING)
        deepest = max(deepest, depth)
        if depth < 0:
            return None
    return deepest if depth == 0 else None


def _is_tower(latex: str) -> bool:
    """Whether an exponent without letters holds a power or a factorial."""
    if _UNBRACED_TOWER.search(latex):
        return True
    exponents = [latex[found.end() :] for found in _BRACED_POWER.finditer(latex)]
    for exponent in (_until_closed(text) for text in exponents):
        if ("^" in exponent or "!" in exponent) and not any(map(str.isalpha, exponent)):
            return True
    return False


def _until_closed(text: str) -> str:
    depth = 1
    for place, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[:place]
    return text
