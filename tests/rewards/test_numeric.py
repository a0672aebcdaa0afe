"""Numbers: which one is stated, and how far off it may be."""

import pytest

from resadapt_jax.rewards import numeric, parse_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7.0),
        (" 7. ", 7.0),
        ("+7", 7.0),
        ("-7", -7.0),
        ("−7.5", -7.5),
        (".5", 0.5),
        ("-.5", -0.5),
        ("007", 7.0),
        ("1,234", 1234.0),
        ("1,234,567.89", 1234567.89),
        ("3e2", 300.0),
        ("3.5E-1", 0.35),
        ("$12", 12.0),
        ("12%", 12.0),
        ("12 km", 12.0),
        ("12km", 12.0),
        ("(12)", 12.0),
        ("**12**", 12.0),
        ("There are 12 of them.", 12.0),
        ("12, I repeat: 12", 12.0),
        ("2 + 3 = 5", 5.0),
        ("x=5", 5.0),
        # no number, or none that is stated
        ("", None),
        ("twelve", None),
        ("1 2", None),
        ("3-4", None),
        ("1/2", None),
        ("3.5.2", None),
        ("1,23", None),
        ("12,3456", None),
        ("A5", None),
        ("room_5", None),
        ("x = ", None),
        ("5 = x", None),
        (".", None),
        ("-", None),
        ("1e999", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("1 2 3 4 5 6 7 8 9", None),
    ],
)
def test_parse_number(text, number):
    assert parse_number(text) == number


# The tolerance is max(.01, .01·|truth|).
@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("7", "7", 1.0),
        ("7.0", "7", 1.0),
        ("8", "7", 0.0),
        ("-7", "7", 0.0),
        ("", "7", 0.0),
        ("seven", "7", 0.0),
        ("6 or 7", "7", 0.0),
        ("0 1 2 3 4 5 6 7", "7", 0.0),
        ("There are 7 signs", "7", 1.0),
        ("100.99", "100", 1.0),
        ("101.01", "100", 0.0),
        ("99.01", "100", 1.0),
        ("98.99", "100", 0.0),
        ("-100.9", "-100", 1.0),
        ("-101.1", "-100", 0.0),
        ("0.009", "0", 1.0),
        ("0.011", "0", 0.0),
        ("0.109", "0.1", 1.0),
        ("0.111", "0.1", 0.0),
        ("1,000", "1000", 1.0),
        ("1,009", "1000", 1.0),
        ("1,011", "1000", 0.0),
        ("1e3", "1000", 1.0),
        ("50%", "50", 1.0),
        ("0.5", "50%", 0.0),
        ("1e400", "7", 0.0),
        ("1e308", "7", 0.0),
        ("inf", "7", 0.0),
        ("nan", "7", 0.0),
        # a truth that is no number is text
        ("Seven!", "seven", 1.0),
        ("eight", "seven", 0.0),
        ("7", "seven", 0.0),
        ("3-4", "3-4", 1.0),
    ],
)
def test_numeric(answer, truth, score):
    assert numeric(answer, truth) == score
