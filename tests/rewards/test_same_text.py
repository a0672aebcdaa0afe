"""When texts say the same: what counts as a sign, and what is punctuation."""

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import exact_match, general, grounding_qa
from resadapt_jax.rewards.same_text import same_text


@pytest.mark.parametrize(
    ("first", "second"),
    rows(
        (r"-\frac{1}{2}", r"\frac{1}{2}", "a sign before a command"),
        (r"- \frac{1}{2}", r"\frac{1}{2}", "and a space"),
        ("-x", "x", "before a letter"),
        ("−√2", "√2", "before a root"),
        ("-(x+1)", "(x+1)", "before a bracket"),
        ("-|x|", "|x|", "before a bar"),
        ("-sin x", "sin x", "before a function"),
        ("−∞", "∞", "before infinity"),
        ("- 5", "5", "apart from its number"),
        ("= - 5", "= 5", "after an equals sign"),
        ("[3, - 5]", "[3, 5]", "after a comma"),
        ("below -5", "below 5", "after a word"),
        ("-€5", "€5", "before a currency"),
        ("±5", "5", "plus or minus"),
        (".5", "5", "a point before the first digit"),
        ("10 - 3", "10 3", "a difference of numbers"),
        ("10-3", "10 3", "without spaces"),
        ("10 – 3", "10 3", "by an en dash"),
        ("x - y", "x y", "a difference of letters"),
        ("x-2", "x 2", "of a letter and a number"),
        ("5!", "5", "a factorial"),
        ("n!", "n", "of a letter"),
        ("(n+1)!", "(n+1)", "of a bracket"),
        ("x != 5", "x = 5", "not equal"),
        ("x ≤ 5", "x ≥ 5", "less and greater"),
        ("A ∩ B", "A ∪ B", "intersection and union"),
        ("A → B", "A ← B", "arrows"),
        ("¬p", "p", "a negation"),
        ("x × y", "x y", "a product"),
        ("£5", "€5", "currencies"),
        ("£5", "5", "a currency and none"),
        ("5‰", "5", "a thousandth"),
        ("|x|", "x", "an absolute value"),
        ("P(A | B)", "P(A B)", "a condition"),
        ("C#", "C", "a language"),
        ("C++", "C", "another one"),
        ("B♭", "B", "a note"),
        ("x²", "x2", "a superscript"),
        ("10⁻³", "10³", "a sign in a superscript"),
        ("5½", "51/2", "a fraction after a digit"),
    ),
)
def test_signs_that_change_the_meaning_count(first, second):
    assert not same_text(first, second)
    assert not same_text(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    rows(
        ("red-sign", "red sign", "a hyphen"),
        ("pre- and post-war", "pre and post war", "a hyphen at the end of a word"),
        ("e-mail", "e mail", "after a letter"),
        ("Covid-19", "covid 19", "before a number"),
        ("3-year-old", "3 year old", "after a number"),
        ("red - the left one", "red, the left one", "a dash between clauses"),
        ("red—the left one", "red the left one", "without spaces"),
        ("plan B - a red sign", "plan B: a red sign", "between a letter and an article"),
        ("a sign - 5 dollars", "a sign, 5 dollars", "before a number"),
        ("the end --", "the end", "at the end"),
        ("- dog\n- cat", "dog, cat", "bullets"),
        ("* dog", "dog", "a star for a bullet"),
        ("• dog", "dog", "a round one"),
        ("- 5 dogs\n- 3 cats", "5 dogs, 3 cats", "bullets before numbers"),
        ("Yes!", "yes", "an exclamation"),
        ("wow!!", "wow", "two of them"),
        ("A. red", "A red", "a full stop"),
        ("No.5", "no. 5", "a full stop that touches a number"),
        ("| red | sign |", "red sign", "a row of a table"),
        ("# Red", "red", "a heading"),
        ("#5", "5", "a number sign"),
        ("~5", "5", "a tilde"),
        ("½", "1/2", "a fraction in one character"),
        ("x²", "x^2", "a power in one"),
        ("H₂O", "H2O", "a subscript"),
        ("- 5", "-5", "a space after a sign"),
        ("10–3", "10 - 3", "spaces around one"),
        ('"5"', "5", "quotes"),
    ),
)
def test_punctuation_does_not(first, second):
    assert same_text(first, second)
    assert same_text(second, first)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_is_the_same_as_itself(text):
    assert same_text(text, text) is bool(text.strip())


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        *(("-x", "x"), ("√2", "-√2"), (".5", "5"), ("5!", "5"), ("10 - 3", "10 3"), ("|x|", "x")),
        *((r"\frac{1}{2}", r"-\frac{1}{2}"), ("x ≤ 5", "x ≥ 5"), ("£5", "€5"), ("±5", "5")),
        *(("A ∩ B", "A ∪ B"), ("C#", "C"), ("C", "C#"), ("C++", "C"), ("-x, y", "x, y")),
    ],
)
def test_no_grader_that_compares_texts_takes_them_for_the_same(answer, truth):
    assert exact_match(answer, truth).accuracy == 0.0
    assert general(answer, truth).accuracy == 0.0
    grade = grounding_qa(f"{answer} <> [3, 7]", f"{truth} <> [3, 7]")
    assert grade.parts == {"answer": 0.0, "iou": 1.0}
