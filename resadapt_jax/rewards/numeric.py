"""Numbers: right within one part in a hundred."""

import math
import re

from resadapt_jax.rewards.text import same_text

# Digits are bounded, so that no run of them is scanned twice at length.
_NUMBER = re.compile(
    r"(?<![0-9A-Za-z_.])[-+]?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,6}(?![0-9])|[0-9]{1,40})?"
    r"(?:\.[0-9]{1,40}|(?<=[0-9])\.?)"
    r"(?:[eE][-+]?[0-9]{1,3})?(?!\.?[0-9])"
)


def parse_number(text: str) -> float | None:
    """The one number that ``text`` states; None if it has none, or several that differ.

    After an equals sign only what follows the last one is read. Thousands separators, a currency
    or per cent sign and words around the number are passed over.
    """
    stated = text.replace("−", "-").rpartition("=")[2]
    values = {float(found.replace(",", "")) for found in _NUMBER.findall(stated)}
    value = values.pop() if len(values) == 1 else math.inf
    return value if math.isfinite(value) else None


def numeric(answer: str, truth: str) -> float:
    """1 if |answer - truth| ≤ max(1e-2, 1e-2·|truth|), else 0.

    A truth that is no number is compared as text.
    """
    given, expected = parse_number(answer), parse_number(truth)
    if expected is None:
        return float(same_text(answer, truth))
    if given is None:
        return 0.0
    return float(abs(given - expected) <= max(1e-2, 1e-2 * abs(expected)))
