"""Quantities: a number and its unit, and nothing else."""

import pytest
from reward_tables import rows

from resadapt_jax.rewards.quantity import Quantity, parse_quantity, same_quantity


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    rows(
        ("7", 7.0, "", "an integer"),
        ("-7.5", -7.5, "", "a negative decimal"),
        ("+ 7", 7.0, "", "a sign apart"),
        (".5", 0.5, "", "no digit before the point"),
        ("7.", 7.0, "", "a full stop"),
        ("1,234,567", 1234567.0, "", "thousands separators"),
        ("1.5e3", 1500.0, "", "an exponent"),
        ("1/2", 0.5, "", "a fraction"),
        ("-1 / 2", -0.5, "", "a negative one"),
        ("1 1/2", 1.5, "", "a mixed number"),
        (r"-1\frac{1}{2}", -1.5, "", "a mixed number in LaTeX"),
        (r"\frac{1}{2}", 0.5, "", "in LaTeX"),
        (r"-\dfrac{3}{4}", -0.75, "", "in displayed LaTeX"),
        (r"$\tfrac{3}{4}$", 0.75, "", "in dollar signs"),
        (r"\(7\)", 7.0, "", "in LaTeX brackets"),
        ("**7**", 7.0, "", "in bold"),
        ("50%", 50.0, "%", "per cent"),
        (r"50\%", 50.0, "%", "per cent in LaTeX"),
        ("50 percent", 50.0, "%", "per cent in words"),
        ("90°", 90.0, "degree", "degrees"),
        (r"90^\circ", 90.0, "degree", "degrees in LaTeX"),
        ("12 km", 12.0, "km", "a unit"),
        ("12km", 12.0, "km", "glued"),
        (r"12\text{ km}", 12.0, "km", "in LaTeX text"),
        (r"12\,\mathrm{km}", 12.0, "km", "in upright LaTeX"),
        ("12 kilometers", 12.0, "km", "in full"),
        ("12 apples", 12.0, "apple", "things"),
        ("5 m/s", 5.0, "m/", "a ratio of units, less its plural"),
        ("4 m", 4.0, "m", "one letter apart"),
        ("1.5 million", 1.5e6, "", "a million"),
        ("-2 thousand km", -2e3, "km", "a power of ten and a unit"),
        ("€5bn", 5e9, "€", "a power of ten and a currency"),
        ("€12", 12.0, "€", "a currency"),
        ("$12", 12.0, "", "dollars are LaTeX's signs"),
    ),
)
def test_what_a_quantity_is(text, value, unit):
    assert parse_quantity(text) == Quantity(value=value, unit=unit)


def test_one_letter_right_after_a_number():
    for text, one_letter in (("4m", True), ("4h", True), ("4 m", False), ("4cm", False), ("4%", 0)):
        assert parse_quantity(text).one_letter == one_letter


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "x = 5", "2x", "5 x", "2 pi", "5 sqrt", "3 and 4", "3 to 4", "1 2", "1/0"),
        *(r"\frac{1}{0}", r"\frac{x}{2}", r"5\sqrt{5}", "2^3", "9**9", "-", ".", "%", "1,23"),
        *(
            "1.2.3",
            "7" * 41,
            "inf",
            "nan",
            "there are 7",
            "[7]",
            "7!",
            "²",
            "1 or 2",
            "7 ab",
            "1 1",
            "11/2/3",
            "1e999",
            "-1e400",
            "5k",
        ),
    ],
)
def test_what_is_none(text):
    assert parse_quantity(text) is None


@pytest.mark.parametrize(
    ("first", "second", "same"),
    rows(
        ("7", "7.0", True, "the number"),
        ("7 km", "7", True, "a unit that one side leaves out"),
        ("7 km", "7 kilometers", True, "a unit in full"),
        ("7 km", "7 m", False, "units that contradict each other"),
        ("7 dogs", "7 gods", False, "things that do"),
        ("50%", "0.5", True, "per cent as hundredths"),
        ("0.5", "50%", True, "the other way round"),
        ("50", "50%", True, "a per cent sign left out"),
        ("50%", "50%", True, "per cent on both sides"),
        ("0.5%", "50%", False, "and then no other reading"),
        ("€7", "£7", False, "currencies"),
    ),
)
def test_same_quantity(first, second, same):
    assert same_quantity(parse_quantity(first), parse_quantity(second)) is same
