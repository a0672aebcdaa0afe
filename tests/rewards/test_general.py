"""The general matcher and exact match."""

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import RewardConfig, exact_match, general, score


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    rows(
        ("the red sign", "The red sign.", 1, "the text"),
        ("the blue sign", "the red sign", 0, "another text"),
        ("", "the red sign", 0, "nothing"),
        ("x", "", 0, "an empty truth"),
        ("", "", 0, "nothing and nothing"),
        ("yes", "yes", 1, "yes"),
        ("Yes, it does.", "yes", 1, "the first word of a sentence"),
        ("True", "yes", 1, "true is yes"),
        ("No, yes would be wrong", "yes", 0, "the first word counts"),
        ("it is not", "no", 0, "no yes and no no"),
        ("B", "B", 1, "an option"),
        ("(B)", "B. the red sign", 1, "an option by its letter"),
        ("B. the red sign", "B", 1, "an option with what it says"),
        ("option B", "B", 1, "an option after a word"),
        ("(B) The red sign", "B. the red sign", 1, "an option's letter and words"),
        ("J. Smith", "J. K. Rowling", 0, "an initial is no option"),
        ("A", "B", 0, "another option"),
        ("A or B", "B", 0, "hedging"),
        ("7", "7.0", 1, "a number"),
        ("1000.9", "1000", 1, "within a thousandth"),
        ("1001.1", "1000", 0, "beyond"),
        ("0.00009", "0", 1, "within a ten-thousandth of 0"),
        ("0.00011", "0", 0, "beyond it"),
        ("There are 7 of them", "7", 1, "a number in a sentence"),
        ("there are none", "0", 0, "no number"),
        ("1/2", "0.5", 1, "a fraction"),
        ("50%", "0.5", 1, "per cent"),
        ("12 km", "12 kilometers", 1, "a unit in full"),
        ("12 km", "12 m", 0, "another unit"),
        ("1e999", "1e998", 0, "numbers that no float holds"),
        ("1.5 million of them", "1500000", 1, "a million in a sentence"),
        ("12", "12 km", 1, "a unit left out"),
        ("It is 12 kilometres away", "12 km", 1, "a unit in a sentence"),
        ("It is 12 km", "12 m", 0, "another one there"),
        ("It weighs 5 grams", "5 kg", 0, "in full"),
        ("It weighs 5 all in all", "5 kg", 1, "none there"),
        ("There are 5 m of rope", "5 ropes", 1, "what was counted is no unit"),
        ("1, 2, 3", "{3, 2, 1}", 1, "a set in another order"),
        ("a dog and a cat", "a cat, a dog", 1, "a list of words in another order"),
        ("1, 2", "1, 2, 3", 0, "an element missing"),
        ("1, 2, 2", "1, 1, 2", 0, "an element counted twice"),
        ("(2, 1)", "(1, 2)", 0, "round brackets keep the order"),
        ("(1.0, 2.0)", "(1, 2)", 1, "elements are compared as numbers"),
        ("(1, 2)", "[1, 2]", 0, "an open interval is no closed one"),
        ("[2, 1]", "[1, 2]", 0, "so do square ones, as of a point or a box"),
        ("[1, 2.0]", "[1, 2]", 1, "elements written otherwise"),
        ("{2, 1}", "1, 2", 1, "a set and a list in words"),
        ("2 : 3", "2:3", 1, "a ratio with spaces"),
        ("2 : 3", "3:2", 0, "another ratio"),
        ("(1, 2]", "[1, 2)", 0, "half-open intervals are no lists"),
        (r"\sqrt{12}", "2√3", 1, "expressions"),
        ("x + 1", "1 + x", 1, "expressions in another order"),
        ("1.7321", r"\sqrt{3}", 1, "a constant within a thousandth"),
        ("1.74", r"\sqrt{3}", 0, "beyond"),
        ("god", "dog", 0, "letters in another order"),
        ("cat 1", "act 1", 0, "letters next to a number"),
        ("SU", "US", 0, "a code's letters in another order"),
        ("MP", "PM", 0, "another code"),
        ("gM", "Mg", 0, "a symbol"),
        ("eh", "he", 0, "a word of two letters"),
        ("us", "US.", 1, "a code, whatever its case and punctuation"),
        (r"\text{CA}", "AC", 0, "in LaTeX text"),
        (r"\text{CA}", r"\text{AC}", 0, "on both sides"),
        ("SU, KU", "US, UK", 0, "codes in a list"),
        ("ba", "ab", 0, "two letters alone are no product"),
        ("2yx", "2xy", 1, "next to a number they are"),
        ("π", "pi", 1, "the name of a letter is no code"),
        ("-5", "5", 0, "the sign counts"),
        ("1:30", "1:30", 1, "a clock time"),
        ("1:31", "1:30", 0, "another one"),
        ("2021-05-06", "2021-05-06", 1, "a date"),
        ("2021-05-07", "2021-05-06", 0, "another one"),
        ("3-2", "2-1", 0, "a score is no difference"),
        ("6/5/2021", "5/6/2021", 0, "nor are these fractions"),
        (r"\dfrac12", "1/2", 1, "but this is one"),
        ("ｄｏｇ", "dog", 1, "full-width letters"),
        ("狗", "狗", 1, "Chinese"),
        ("狗", "猫", 0, "other Chinese"),
        ("٧", "7", 1, "an Arabic digit"),
        ("😀", "😀", 1, "emoji"),
        ("😀", "😎", 0, "other emoji"),
        (r"\text{dog}", "dog", 1, "LaTeX text"),
        ("**dog**", "dog", 1, "bold"),
        ("__import__('os').system('ls')", "0", 0, "code is not run"),
        ("9**9**9**9", "1", 0, "a tower is not computed"),
        ("exec('7')", "7", 1, "a number in what is otherwise words"),
    ),
)
def test_general(answer, truth, score):
    assert general(answer, truth).accuracy == score


def test_it_explains_itself():
    assert general("Yes!", "true").reason == "yes or no 'Yes!' vs 'true'"
    assert general("7.5", "7").reason == "number '7.5' vs '7'"
    assert general("x+1", "1+x").reason == "'x+1' vs '1+x': equivalent"
    assert general("dog", "cat").reason == "text 'dog' vs 'cat'"
    assert general("7.5", "7").extracted == "7.5"


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for pair in ((text, "x+1"), ("x+1", text), (text, "7"), (text, "[1, 2]"), (text, text)):
        assert general(*pair).accuracy in (0.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    rows(
        ("dog", "dog", 1, "the word"),
        ("Dog", "dog", 1, "case"),
        ("dog.", "dog", 1, "a full stop"),
        ('"dog"', "dog", 1, "quotes"),
        (" dog ", "dog", 1, "spaces around it"),
        ("red  sign", "red sign", 1, "spaces inside"),
        ("red-sign", "red sign", 1, "a hyphen"),
        ("redsign", "red sign", 0, "no space"),
        ("dogs", "dog", 0, "a plural"),
        ("the dog", "dog", 0, "an article"),
        ("cat", "dog", 0, "another word"),
        ("", "dog", 0, "nothing"),
        ("", "", 0, "nothing and nothing"),
        ("dog", "", 0, "an empty truth"),
        ("7", "7", 1, "a number"),
        ("7.0", "7", 0, "written otherwise"),
        ("-7", "7", 0, "with a sign"),
        ("1,234", "1234", 1, "a thousands separator"),
        ("1.5", "15", 0, "a decimal point"),
        ("1/2", "1 2", 0, "a fraction bar"),
        ("3:45", "3 45", 0, "a clock time"),
        ("x^2", "x2", 0, "a power"),
        ("a+b", "a b", 0, "a sum"),
        ("50%", "50", 0, "a per cent sign"),
        ("(1, 2]", "[1, 2)", 0, "brackets around numbers"),
        ("(B)", "B", 1, "brackets around a letter"),
        ("ｄｏｇ", "dog", 1, "full-width letters"),
        ("ﬁsh", "fish", 1, "a ligature"),
        ("STRASSE", "straße", 1, "case, in German"),
        ("cafe\u0301", "caf\u00e9", 1, "an accent composed or not"),
        ("cafe", "café", 0, "an accent missing"),
        ("\u200bdog\u202e", "dog", 1, "invisible characters"),
        ("dоg", "dog", 0, "a Cyrillic letter that looks like it"),
        ("!!!", "???", 0, "other punctuation"),
        ("!!!", "!!!", 1, "the same punctuation, of which there is nothing else"),
        (r"$\text{dog}$", "dog", 1, "LaTeX text"),
        ("٣", "3", 1, "an Arabic digit"),
        ("nan", "nan", 1, "a word that Python reads as a number"),
    ),
)
def test_exact_match(answer, truth, score):
    assert exact_match(answer, truth).accuracy == score


def test_what_ends_at_the_general_matcher():
    released = RewardConfig(exact_match="released", free_form="released")
    for task in ("exact_match", "free-form"):
        assert score(task, "7.0", "7", released).accuracy == 1.0
    assert score("exact_match", "7.0", "7").accuracy == 0.0
    assert score(None, "7.0", "7").accuracy == 1.0
    assert score(None, "7.0", "7", RewardConfig(general="paper")).accuracy == 0.0


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_exact_match_raise(text):
    for pair in ((text, "dog"), ("dog", text), (text, text)):
        assert exact_match(*pair).accuracy in (0.0, 1.0)
