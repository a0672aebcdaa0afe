"""Quantities: a number, alone or with a unit, and nothing else."""

import dataclasses
import math
import re

from resadapt_jax.rewards.numeric import close, powers_of_ten
from resadapt_jax.rewards.text import plain, unwrap_latex

_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3}){1,6}|[0-9]{1,40})(?:\.[0-9]{0,40})?|\.[0-9]{1,40})"
_QUANTITY = re.compile(
    r"(?P<currency>[€£¥₹]?)[ ]?(?P<sign>[-+]?)[ ]?(?:"
    r"(?P<whole>[0-9]{1,40}(?:[ ]|(?=\\)))?"
    rf"(?:\\[dt]?frac[ ]?\{{(?P<over>{_DECIMAL})\}}[ ]?\{{(?P<under>{_DECIMAL})\}}|"
    rf"(?P<upper>{_DECIMAL})[ ]?/[ ]?(?P<lower>{_DECIMAL}))|"
    rf"(?P<decimal>{_DECIMAL})(?P<exponent>[eE][-+]?[0-9]{{1,3}})?"
    r")(?P<gap>[ ]{0,4})(?P<unit>%|°|\^\{?\\circ\}?|[A-Za-z][A-Za-z/ ]{0,40}(?:\^?[23²³])?)?\.?"
)
_UNITS = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms", "millisecond", "milliseconds"),
    "min": ("min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "m": ("m", "meter", "meters", "metre", "metres"),
    "km": ("km", "kilometer", "kilometers", "kilometre", "kilometres"),
    "cm": ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
    "mm": ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    "g": ("g", "gram", "grams"),
    "kg": ("kg", "kilogram", "kilograms"),
    "degree": ("deg", "degree", "degrees", "°", "^\\circ", "^{\\circ}"),
    "%": ("%", "percent", "per cent"),
}
_CANONICAL = {name: unit for unit, names in _UNITS.items() for name in names}
_MEASURED = re.compile(
    rf"[0-9][ ]{{0,4}}({'|'.join(map(re.escape, sorted(_CANONICAL, key=len, reverse=True)))})"
    r"(?![A-Za-z])",
    re.IGNORECASE,
)
# Words that continue an expression after a number instead of saying what was counted.
_OPERATORS = {
    *("pi", "sqrt", "sin", "cos", "tan", "log", "exp", "and", "or", "to", "mod", "times", "plus"),
    *("minus", "over", "divided", "infinity", "inf", "choose", "theta", "alpha", "beta"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number and its unit in its shortest form; empty for none.

    ``one_letter``: the unit is one letter right after the number, as of "4m", which in mathematics
    may be a variable.
    """

    value: float
    unit: str
    one_letter: bool = False


def parse_quantity(text: str) -> Quantity | None:
    """The quantity that the whole of ``text`` is, a fraction included; None if it is none."""
    found = _QUANTITY.fullmatch(unwrap_latex(plain(text)))
    if found is None:
        return None
    name, gap = found["unit"] or "", found["gap"]
    # one letter is a unit, or a variable
    factor, end = powers_of_ten(name, 0) if len(name) > 1 else (1.0, 0)
    unit, value = _canonical(name[end:], glued=not (gap or end)), _value(found)
    if unit is None or value is None or not math.isfinite(value * factor):
        return None
    value *= factor
    return Quantity(
        value=-value if found["sign"] == "-" else value,
        unit=found["currency"] or unit,
        one_letter=not gap and len(name) == 1 and name.isalpha(),
    )


def units_in(text: str) -> set[str]:
    """The known units right after a number anywhere in a text, in their shortest form."""
    return {_CANONICAL[found[1].lower()] for found in _MEASURED.finditer(plain(text))}


def same_quantity(
    given: Quantity, expected: Quantity, relative: float = 1e-2, absolute: float = 1e-2
) -> bool:
    """Whether the values are close and the units do not contradict each other.

    A unit that only one side has is passed over; a per cent sign that only one side has may also
    be read as hundredths.
    """
    units = {given.unit, expected.unit} - {""}
    if len(units) > 1:
        return False
    values = [given.value]
    if units == {"%"} and given.unit != expected.unit:
        values.append(given.value / 100 if given.unit else given.value * 100)
    return any(close(value, expected.value, relative, absolute) for value in values)


def _value(found: re.Match[str]) -> float | None:
    """None of a fraction of nothing."""
    over = found["over"] or found["upper"]
    if over is None:
        return float(found["decimal"].replace(",", "") + (found["exponent"] or ""))
    under = float((found["under"] or found["lower"]).replace(",", ""))
    if not under:
        return None
    return float(found["whole"] or 0) + float(over.replace(",", "")) / under


def _canonical(unit: str, *, glued: bool) -> str | None:
    """The unit's shortest form, None if what follows the number is none."""
    name = " ".join(unit.split())
    if not name or name.lower() in _CANONICAL:
        return _CANONICAL.get(name.lower(), name)
    words = name.lower().replace("/", " ").split()
    if glued or len(name) < 3 or _OPERATORS.intersection(words):
        return None
    return name.lower().rstrip("s")
