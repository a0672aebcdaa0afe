"""Numbers: which one is stated, and how far off it may be."""

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import numeric, parse_number


@pytest.mark.parametrize(
    ("text", "number"),
    rows(
        ("7", 7.0, "an integer"),
        (" 7. ", 7.0, "with a full stop"),
        ("+7", 7.0, "a plus sign"),
        ("-7", -7.0, "a minus sign"),
        ("−7.5", -7.5, "the minus sign of Unicode"),
        (".5", 0.5, "no digit before the point"),
        ("-.5", -0.5, "nor after the sign"),
        ("007", 7.0, "leading zeros"),
        ("1,234", 1234.0, "a thousands separator"),
        ("1,234,567.89", 1234567.89, "several"),
        ("3e2", 300.0, "an exponent"),
        ("3.5E-1", 0.35, "a negative one"),
        ("$12", 12.0, "a currency"),
        ("12%", 12.0, "a per cent sign"),
        ("12 km", 12.0, "a unit"),
        ("12km", 12.0, "a unit glued to it"),
        ("(12)", 12.0, "in brackets"),
        ("**12**", 12.0, "in bold"),
        ("There are 12 of them.", 12.0, "in a sentence"),
        ("12, I repeat: 12", 12.0, "said twice"),
        ("2 + 3 = 5", 5.0, "after an equals sign"),
        ("x=5", 5.0, "the value of a name"),
        ("٣", 3.0, "an Arabic digit"),
        ("１２", 12.0, "full-width digits"),
        ("\u200e12\u200f", 12.0, "between marks of direction"),
        ("", None, "nothing"),
        ("twelve", None, "a number in words"),
        ("1 2", None, "two numbers"),
        ("3-4", None, "a range"),
        ("1/2", None, "a fraction is two numbers"),
        ("3.5.2", None, "a version"),
        ("1,23", None, "a separator out of place"),
        ("12,3456", None, "a group of four"),
        ("A5", None, "part of a code"),
        ("room_5", None, "part of a name"),
        ("x = ", None, "nothing after the equals sign"),
        ("5 = x", None, "only what follows the equals sign counts"),
        (".", None, "a point"),
        ("-", None, "a sign"),
        ("1e999", None, "infinite"),
        ("nan", None, "the word"),
        ("inf", None, "the other word"),
        ("5²", None, "a power in one character"),
        ("10⁻³", None, "a negative one"),
        ("5^{5}", None, "a power in braces"),
        ("5 km²", 5.0, "a square of a unit"),
        ("5½", None, "a mixed number"),
        ("√5", None, "a root"),
        (r"\sqrt{5}", None, "a root in LaTeX"),
        (r"\frac{5}{5}", None, "a fraction of one number"),
        ("5π", None, "a multiple of a constant"),
        ("2x3", None, "a product by an x"),
        ("2 x 2", None, "of one number"),
        ("5x", 5.0, "an x before nothing"),
        ("1.5 million", 1.5e6, "a million"),
        ("3 hundred thousand", 3e5, "a power of ten times another"),
        ("2 Thousands", 2e3, "several thousands"),
        ("$5bn", 5e9, "a billion, short"),
        ("5k", 5e3, "a thousand, short"),
        ("5 kids", 5.0, "a word that starts like it"),
        ("5 K", 5.0, "kelvin"),
        ("5m", 5.0, "metres"),
        ("1.5万", 1.5e4, "ten thousand in Chinese"),
        ("2 million and 5", None, "two numbers, one in words"),
        ("7*7", None, "a product of one number"),
        ("10**10**10", None, "a tower in Python, whose stars are no emphasis"),
        ("2**2**2**2", None, "a higher one"),
        ("3 ** 3 ** 3", None, "with spaces"),
        ("x**10**", None, "a power that breaks off"),
        ("x ** 10", None, "a power of a letter"),
        ("(x+1)**10", None, "of what is in brackets"),
        ("It is **10**, so **10**.", 10.0, "in bold twice"),
        ("答案**10**", 10.0, "in bold after Chinese"),
        ("1_00", None, "a separator of Python"),
        ("1.5_00", None, "after a point"),
        ("7 - 7", None, "a difference of one number"),
        ("7^7", None, "a power of one number"),
        ("7 \\times 7", None, "a product in LaTeX"),
        ("1 2 3 4 5 6 7 8 9", None, "all of them"),
    ),
)
def test_parse_number(text, number):
    assert parse_number(text) == number


# The tolerance is max(.01, .01·|truth|).
@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    rows(
        ("7", "7", 1.0, "the number"),
        ("7.0", "7", 1.0, "written otherwise"),
        ("8", "7", 0.0, "another one"),
        ("-7", "7", 0.0, "the wrong sign"),
        ("", "7", 0.0, "nothing"),
        ("seven", "7", 0.0, "in words, which are not read"),
        ("6 or 7", "7", 0.0, "hedging"),
        ("0 1 2 3 4 5 6 7", "7", 0.0, "hedging at length"),
        ("There are 7 signs", "7", 1.0, "in a sentence"),
        ("100.99", "100", 1.0, "off by less than 1"),
        ("101.01", "100", 0.0, "off by more than 1"),
        ("99.01", "100", 1.0, "below, by less than 1"),
        ("98.99", "100", 0.0, "below, by more than 1"),
        ("-100.9", "-100", 1.0, "a negative truth's tolerance is positive"),
        ("-101.1", "-100", 0.0, "and no wider"),
        ("0.009", "0", 1.0, "a truth of 0: within .01"),
        ("0.011", "0", 0.0, "a truth of 0: beyond .01"),
        ("0.109", "0.1", 1.0, "a small truth: within .01"),
        ("0.111", "0.1", 0.0, "a small truth: beyond .01"),
        ("1,000", "1000", 1.0, "a thousands separator"),
        ("1,009", "1000", 1.0, "off by 9 of 1000"),
        ("1,011", "1000", 0.0, "off by 11 of 1000"),
        ("1e3", "1000", 1.0, "an exponent"),
        ("50%", "50", 1.0, "a per cent sign is passed over"),
        ("0.5", "50%", 0.0, "and not read as hundredths"),
        ("٧", "7", 1.0, "an Arabic 7"),
        ("７", "7", 1.0, "a full-width 7"),
        ("−7", "-7", 1.0, "the minus sign of Unicode"),
        ("1e400", "7", 0.0, "an answer that overflows"),
        ("1e308", "7", 0.0, "one that nearly does"),
        ("inf", "7", 0.0, "infinity is no number"),
        ("nan", "7", 0.0, "nor is nan"),
        ("7" * 41, "7", 0.0, "more digits than are read"),
        ("__import__('os').getpid() or 7", "7", 1.0, "code is words around a number"),
        ("1.5 million", "1500000", 1.0, "a million"),
        ("1.5 million", "1.5", 0.0, "is not passed over"),
        ("5²", "5", 0.0, "a power is not its base"),
        ("Seven!", "seven", 1.0, "a truth that is no number is text"),
        ("eight", "seven", 0.0, "text: another word"),
        ("7", "seven", 0.0, "text: a number"),
        ("3-4", "3-4", 1.0, "text: a range"),
        ("-x", "x", 0.0, "text: a sign before a letter"),
        ("-3 or 4", "3 or 4", 0.0, "text: a sign before a digit"),
    ),
)
def test_numeric(answer, truth, score):
    assert numeric(answer, truth).accuracy == score


def test_it_explains_itself():
    assert numeric("it is 7", "7").reason == "7 ≈ 7"
    assert numeric("8", "7").reason == "8 ≠ 7"
    assert numeric("it is 8", "7").extracted == "8"
    assert numeric("6 or 7", "7").reason == "no one number in '6 or 7'"


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for pair in ((text, "7"), ("7", text), (text, text)):
        assert numeric(*pair).accuracy in (0.0, 1.0)
