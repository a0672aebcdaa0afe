"""Numbers: right within one part in a hundred."""

import math
import re

from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.same_text import same_text
from resadapt_jax.rewards.text import brief, plain

# Digits are bounded, so that no run of them is scanned twice at length.
_NUMBER = re.compile(
    r"(?<![0-9A-Za-z_.])[-+]?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,6}(?![0-9])|[0-9]{1,40})?"
    r"(?:\.[0-9]{1,40}|(?<=[0-9])\.?)"
    r"(?:[eE][-+]?[0-9]{1,3})?(?!\.?[0-9]|_[0-9])"
)

_ARITHMETIC = re.compile(r"[0-9)][ ]{0,4}(?:\*\*|[+*/^×÷·xX-]|\\times|\\cdot)[ ]{0,4}[(0-9]")
# What makes a number part of an expression: a power, a root, a fraction, a constant.
_EXPRESSION = re.compile(
    r"[0-9)}](?:[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]|[ ]?\^[ ]?\{?[ ]?-?[0-9(])|[¼-¾⅐-⅞√π∞]|"
    r"\\(?:[dt]?frac|sqrt|pi|log|ln|binom)"
)
# Python's power, no stars around a word in bold: glued on both sides, or apart on both.
_STARS = re.compile(
    r"(?<=[0-9A-Za-z)\]}])(?:\*\*|[ ]{1,4}\*\*[ ]{1,4})(?=[-+]?[.]?[(0-9A-Za-z])|"
    r"(?<![A-Za-z0-9])[A-Za-z]\*\*"
)
_POWERS = {
    **{"hundred": 1e2, "thousand": 1e3, "k": 1e3, "million": 1e6, "bn": 1e9, "billion": 1e9},
    **{"trillion": 1e12, "百": 1e2, "千": 1e3, "万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8},
}
_POWER = re.compile(
    r"[ ]?(?:(hundred|thousand|million|billion|trillion)s?\b|((?-i:k)|bn)\b|([百千万萬亿億]))",
    re.IGNORECASE,
)


def parse_number(text: str) -> float | None:
    """The one number that ``text`` states; None if it has none, several that differ, or a sum.

    After an equals sign only what follows the last one is read. Thousands separators, a currency
    or per cent sign and words around the number are passed over; "thousand", "million" and the
    like multiply it, as do "bn" and a small "k" right after it. ("m" may be metres.) A number in a
    product, a power, a root or a fraction is none.
    """
    stated = plain(text).rpartition("=")[2]
    if any(form.search(stated) for form in (_ARITHMETIC, _EXPRESSION, _STARS)):
        return None
    numbers = _NUMBER.finditer(stated)
    values = {float(n[0].replace(",", "")) * powers_of_ten(stated, n.end())[0] for n in numbers}
    value = values.pop() if len(values) == 1 else math.inf
    return value if math.isfinite(value) else None


def powers_of_ten(text: str, start: int) -> tuple[float, int]:
    """The product of the words at ``start`` that multiply a number ("million"), and their end."""
    factor, end = 1.0, start
    while (power := _POWER.match(text, end)) is not None:
        factor *= _POWERS[next(filter(None, power.groups())).lower()]
        end = power.end()
    return factor, end


def close(given: float, expected: float, relative: float = 1e-2, absolute: float = 1e-2) -> bool:
    """|given - expected| ≤ max(absolute, relative·|expected|)."""
    return abs(given - expected) <= max(absolute, relative * abs(expected))


def numeric(answer: str, truth: str) -> Grade:
    """1 if |answer - truth| ≤ max(1e-2, 1e-2·|truth|), else 0.

    A truth that is no number is compared as text.
    """
    given, expected = parse_number(answer), parse_number(truth)
    if expected is None:
        reason = f"text {brief(answer)} vs {brief(truth)}"
        return Grade(accuracy=float(same_text(answer, truth)), reason=reason, extracted=answer)
    if given is None:
        return Grade(accuracy=0.0, reason=f"no one number in {brief(answer)}", extracted="")
    right = close(given, expected)
    sign = "≈" if right else "≠"
    reason = f"{given:.10g} {sign} {expected:.10g}"
    return Grade(accuracy=float(right), reason=reason, extracted=f"{given:.10g}")
