"""Answers of no particular kind: the same text, or whatever else two can be compared by."""

import re

from resadapt_jax.rewards.mathematics import compare_expressions, refusal, to_latex
from resadapt_jax.rewards.multiple_choice import multiple_choice, parse_option
from resadapt_jax.rewards.numeric import close, parse_number
from resadapt_jax.rewards.quantity import parse_quantity, same_quantity, units_in
from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.same_text import same_text
from resadapt_jax.rewards.text import brief, plain, unwrap_latex

RELATIVE, ABSOLUTE = 1e-3, 1e-4
MAX_ELEMENTS = 32
"""Longer lists are compared as text."""

_YES_NO = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_FIRST_WORD = re.compile(r"[\W_]*([A-Za-z]+)")
_WORD = re.compile(r"[A-Za-z]{3,}")
_SEPARATOR = re.compile(r"[,;]|\band\b")
_CODE = re.compile(r"[0-9]+(?:[ ]?[-:][ ]?[0-9]+)+|[0-9]+(?:[/.][0-9]+){2,}")
_AROUND = {"(": ")", "[": "]", "{": "}"}
_INSIDE = re.compile(r"[()\[\]{}\\]")


def exact_match(answer: str, truth: str) -> Grade:
    """1 if both have the same words, whatever their case, punctuation and spacing, else 0."""
    reason = f"text {brief(answer)} vs {brief(truth)}"
    return Grade(accuracy=float(same_text(answer, truth)), reason=reason, extracted=answer)


def general(answer: str, truth: str, seconds: float = 1.0) -> Grade:
    """1 if ``answer`` and ``truth`` agree by the first of these that applies to ``truth``, else 0.

    The same text, or of options the same letter, and the same words if both have any; yes or no, by
    the first word; quantities with |answer - truth| ≤ max(1e-4, 1e-3·|truth|) and units that agree;
    lists, element by element, in any order unless in round or square brackets; equivalent
    expressions, as in `mathematics`. Dates, scores and clock times are text.

    Args:
      seconds: CPU time that the checker of expressions may take.
    """
    answer, truth = plain(answer).strip(), plain(truth).strip()
    if not truth:
        return Grade(accuracy=0.0, reason="the truth is empty", extracted=answer)
    for name, rule in _RULES.items():
        right = rule(answer, truth)
        if right is not None:
            reason = f"{name} {brief(answer)} vs {brief(truth)}"
            return Grade(accuracy=float(right), reason=reason, extracted=answer)
    if refusal(to_latex(truth)) is not None:
        reason = f"text {brief(answer)} vs {brief(truth)}"
        return Grade(accuracy=0.0, reason=reason, extracted=answer)
    verdict = compare_expressions(answer, truth, seconds, relative=RELATIVE, absolute=ABSOLUTE)
    reason = f"{brief(answer)} vs {brief(truth)}: {verdict.reason}"
    return Grade(
        accuracy=float(verdict.equal),
        reason=reason,
        extracted=answer,
        decided=verdict.decided,
    )


def _as_text(answer: str, truth: str) -> bool | None:
    return True if same_text(answer, truth) else None


def _as_yes_no(answer: str, truth: str) -> bool | None:
    expected = _YES_NO.get(unwrap_latex(truth).lower().strip(" .!\"'"))
    if expected is None:
        return None
    first = _FIRST_WORD.match(unwrap_latex(answer))
    return first is not None and _YES_NO.get(first[1].lower()) == expected


def _as_option(answer: str, truth: str) -> bool | None:
    given, expected = parse_option(answer), parse_option(truth)
    if expected is None:
        return None
    if given is not None:
        return given.same(expected)
    return multiple_choice(answer, expected.letter).accuracy == 1.0


def _as_quantity(answer: str, truth: str) -> bool | None:
    """None as well where the answer may be an expression with that value."""
    expected = parse_quantity(truth)
    if expected is None:
        return None
    given = parse_quantity(answer)
    if given is not None:
        return same_quantity(given, expected, RELATIVE, ABSOLUTE)
    number = None if "\\" in answer else parse_number(answer)
    if number is None or _WORD.search(answer) is None:
        return None
    units = units_in(answer)
    other_unit = bool(units) and bool(units_in(truth)) and expected.unit not in units
    return not other_unit and close(number, expected.value, RELATIVE, ABSOLUTE)


def _as_list(answer: str, truth: str) -> bool | None:
    """None as well where elements differ that may be expressions, or brackets of an interval."""
    given, expected = _elements(answer), _elements(truth)
    if given is None or expected is None or {answer[:1], truth[:1]} == {"(", "["}:
        return None
    if len(given) != len(expected):
        return False
    numbers = all(parse_quantity(element) is not None for element in given + expected)
    if truth.startswith(("(", "[")):
        same = all(map(_same_element, given, expected))
    else:
        same = _same_set(given, expected)
    return same or (False if numbers else None)


def _same_set(given: list[str], expected: list[str]) -> bool:
    """Whether each element of one can be paired with one of the other."""
    left = list(given)
    for element in expected:
        match = next((other for other in left if _same_element(other, element)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _as_code(answer: str, truth: str) -> bool | None:
    """Dates, scores and the like look like sums, but are text."""
    if _CODE.fullmatch(truth) is None:
        return None
    return answer.replace(" ", "") == truth.replace(" ", "")


def _elements(text: str) -> list[str] | None:
    """The elements of a list, in brackets or not; None if it is none, or half open."""
    text = unwrap_latex(text).replace("\\{", "{").replace("\\}", "}").rstrip(".")
    if text[:1] in _AROUND:
        if text[-1] != _AROUND[text[0]]:
            return None
        text = text[1:-1]
    if _INSIDE.search(text):
        return None
    elements = [element.strip() for element in _SEPARATOR.split(text)]
    elements = [element for element in elements if element]
    return elements if 2 <= len(elements) <= MAX_ELEMENTS else None


def _same_element(given: str, expected: str) -> bool:
    numbers = parse_quantity(given), parse_quantity(expected)
    if None in numbers:
        return same_text(given, expected)
    return same_quantity(*numbers, RELATIVE, ABSOLUTE)


_RULES = {
    "text": _as_text,
    "yes or no": _as_yes_no,
    "option": _as_option,
    "number": _as_quantity,
    "list": _as_list,
    "text with numbers": _as_code,
}
