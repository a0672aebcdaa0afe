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
    r"(?:[eE][-+]?[0-9]{1,3})?(?!\.?[0-9])"
)

_ARITHMETIC = re.compile(r"[0-9)][ ]{0,4}(?:[+*/^×÷·-]|\\times|\\cdot)[ ]{0,4}[(0-9]")


def parse_number(text: str) -> float | None:
    """The one number that ``text`` states; None if it has none, several that differ, or a sum.

    After an equals sign only what follows the last one is read. Thousands separators, a currency
    or per cent sign and words around the number are passed over.
    """
    stated = plain(text).rpartition("=")[2]
    if _ARITHMETIC.search(stated):
        return None
    values = {float(found.replace(",", "")) for found in _NUMBER.findall(stated)}
    value = values.pop() if len(values) == 1 else math.inf
    return value if math.isfinite(value) else None


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
