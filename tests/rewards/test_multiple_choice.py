"""Multiple choice: F1 over stand-alone capital letters."""

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import multiple_choice
from resadapt_jax.rewards.multiple_choice import Option, parse_option


# F1 = 2·common/(named + expected), worked out beside the rows that are not 0 or 1; the third score
# is the paper's, which is 1 where the sets are equal.
@pytest.mark.parametrize(
    ("answer", "truth", "released", "paper"),
    rows(
        ("B", "B", 1.0, 1.0, "the letter"),
        ("A", "B", 0.0, 0.0, "another letter"),
        ("(B)", "B", 1.0, 1.0, "in brackets"),
        ("B.", "B", 1.0, 1.0, "with a full stop"),
        ("B) the red sign", "B", 1.0, 1.0, "with what the option says"),
        ("**B**", "B", 1.0, 1.0, "in bold"),
        ("[B]", "(B)", 1.0, 1.0, "in other brackets than the truth"),
        ("option B", "B", 1.0, 1.0, "after a word"),
        ("选B", "B", 1.0, 1.0, "after Chinese text, which is no ASCII neighbour"),
        ("$B$", "B", 1.0, 1.0, "in dollar signs"),
        (r"\text{B}", "B", 1.0, 1.0, "in LaTeX text"),
        (r"\mathbf{B}", "B", 1.0, 1.0, "in LaTeX bold"),
        ("Ｂ", "B", 1.0, 1.0, "a full-width letter"),
        ("\u202eB\u202c", "B", 1.0, 1.0, "between marks of direction"),
        ("\u200bB\u200b", "B", 1.0, 1.0, "between characters of zero width"),
        ("B", "B. the red sign", 1.0, 1.0, "a truth with what the option says"),
        ("B B B", "B", 1.0, 1.0, "said three times"),
        ("I'd say B", "B", 1.0, 1.0, "the I of I'd is not alone"),
        ("", "B", 0.0, 0.0, "nothing"),
        ("the second one", "B", 0.0, 0.0, "no letter"),
        ("b", "B", 0.0, 1.0, "a small letter alone"),
        ("(b)", "B", 0.0, 1.0, "in brackets"),
        ("**b.**", "B", 0.0, 1.0, "in bold with a full stop"),
        ("a", "B", 0.0, 0.0, "another small letter"),
        ("b or c", "B", 0.0, 0.0, "two small letters"),
        ("a dog", "A", 0.0, 0.0, "an article is no option"),
        ("C. A man is running", "C", 1.0, 1.0, "an option with an article in what it says"),
        ("C. A man is running", "A", 0.0, 0.0, "the article is not its letter"),
        ("B", "B. A red car", 1.0, 1.0, "nor is it the truth's"),
        ("A", "B. A red car", 0.0, 0.0, "whoever answers so"),
        ("D", "D. Both A and C.", 1.0, 1.0, "an option that speaks of others"),
        ("C. A.M.", "C", 1.0, 1.0, "an option with an abbreviation"),
        ("A car", "A red car", 0.0, 0.0, "a truth that starts with an article is text"),
        ("A red car.", "A red car", 1.0, 1.0, "and matched by it"),
        ("A", "A red car", 0.0, 0.0, "not by its article"),
        ("C#", "C", 0.0, 0.0, "part of a name with a sign"),
        ("B_", "B", 0.0, 0.0, "part of a name"),
        ("BC", "B", 0.0, 0.0, "part of an abbreviation"),
        ("B2", "B", 0.0, 0.0, "part of a code"),
        ("Because", "B", 0.0, 0.0, "part of a word"),
        ("B's", "B", 0.0, 0.0, "part of a genitive"),
        ("В", "B", 0.0, 0.0, "a Cyrillic letter that looks like it"),
        ("A or B", "B", 2 / 3, 0.0, "hedging: 2·1/(2 + 1)"),
        ("A, B, C", "B", 2 / 4, 0.0, "hedging: 2·1/(3 + 1)"),
        ("A B C D", "B", 2 / 5, 0.0, "hedging: 2·1/(4 + 1)"),
        ("A/B/C/D/E", "B", 2 / 6, 0.0, "hedging: 2·1/(5 + 1)"),
        ("I think B", "B", 2 / 3, 1.0, "a pronoun, which the release counts: 2·1/(2 + 1)"),
        ("I think it is B", "B", 2 / 3, 1.0, "another"),
        ("I choose B.", "B", 2 / 3, 1.0, "before another verb"),
        ("B, I think.", "B", 2 / 3, 1.0, "after the letter"),
        ("I am sure it is B.", "B", 2 / 3, 1.0, "before am"),
        ("I think it is I", "I", 1.0, 1.0, "the pronoun and the option"),
        ("I think so", "I", 1.0, 0.0, "the pronoun alone is no option"),
        ("I", "I", 1.0, 1.0, "option I"),
        ("(I)", "I", 1.0, 1.0, "in brackets"),
        ("I.", "I", 1.0, 1.0, "with a full stop"),
        ("Option I", "I", 1.0, 1.0, "after a word"),
        ("Option I fits it", "I", 1.0, 1.0, "before a verb as well"),
        ("I is right", "I", 1.0, 1.0, "I am, the pronoun would say"),
        ("B or I", "B", 2 / 3, 0.0, "hedging: 2·1/(2 + 1)"),
        ("I or B", "B", 2 / 3, 0.0, "in this order as well"),
        ("option b", "B", 0.0, 1.0, "a small letter after the word"),
        ("CD", "CD", 1.0, 1.0, "two letters side by side"),
        ("C, D", "CD", 0.0, 1.0, "with a comma; the release takes the truth as text"),
        ("C and D", "CD", 0.0, 1.0, "with and"),
        ("CD", "C, D", 0.0, 1.0, "the truth with a comma"),
        ("ABD", "A, B, D", 0.0, 1.0, "three"),
        ("CDE", "CD", 0.0, 0.0, "one too many"),
        ("C", "CD", 0.0, 0.0, "one too few"),
        ("DC", "C, D", 0.0, 0.0, "letters that do not rise are a code"),
        ("CCD", "C, D", 0.0, 0.0, "so are letters that repeat"),
        ("No", "NO", 1.0, 1.0, "a word that rises"),
        ("none of them", "none of them", 1.0, 1.0, "a truth without letters is text"),
        ("5", "5", 1.0, 1.0, "a number as well"),
        ("A", "A cat", 0.0, 0.0, "a truth that starts with an article is text"),
        ("A, C", "A, C", 1.0, 1.0, "both letters"),
        ("C and A", "A, C", 1.0, 1.0, "both letters, in another order"),
        ("A", "A, C", 2 / 3, 0.0, "one of two: 2·1/(1 + 2)"),
        ("A, B, C", "A, C", 4 / 5, 0.0, "one too many: 2·2/(3 + 2)"),
        ("A, C", "A. red\nC. blue", 1.0, 1.0, "a truth of two options, line by line"),
        ("A. red, C. blue", "A, C", 1.0, 1.0, "two options on a line"),
        ("A and C", "A) and C)", 1.0, 1.0, "two options without what they say"),
        ("A. B. C. D.", "B", 2 / 5, 0.0, "options one after another are all named: 2·1/(4 + 1)"),
        ("A, B", "C, D", 0.0, 0.0, "two wrong ones"),
        ("A\ud800B", "B", 2 / 3, 0.0, "parted by a lone surrogate: 2·1/(2 + 1)"),
        ("yes", "yes", 1.0, 1.0, "a truth without letters is text"),
        ("Yes.", "yes", 1.0, 1.0, "text: case and punctuation"),
        (" the  RED sign! ", "the red sign", 1.0, 1.0, "text: spacing"),
        ("ｙｅｓ", "yes", 1.0, 1.0, "text: full width"),
        ("no", "yes", 0.0, 0.0, "text: another word"),
        ("", "yes", 0.0, 0.0, "text: nothing"),
        ("the redsign", "the red sign", 0.0, 0.0, "text: words run together"),
        ("B", "yes", 0.0, 0.0, "text: a letter where a word is asked for"),
        ("__import__('os')", "B", 0.0, 0.0, "code names no letter"),
    ),
)
def test_multiple_choice(answer, truth, released, paper):
    assert multiple_choice(answer, truth, "released").accuracy == pytest.approx(released)
    assert multiple_choice(answer, truth).accuracy == paper


def test_it_explains_itself():
    grade = multiple_choice("C or A", "B")
    assert (grade.extracted, grade.reason) == ("A, C", "letters {A, C} vs {B}")
    assert multiple_choice("none", "B").reason == "no letter named"
    assert multiple_choice("no", "yes").reason == "text 'no' vs 'yes'"


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for pair in ((text, "B"), ("B", text), (text, text)):
        assert 0.0 <= multiple_choice(*pair).accuracy <= 1.0


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("B", Option("B", "")),
        ("(B)", Option("B", "")),
        ("B.", Option("B", "")),
        ("B: red", Option("B", "red")),
        ("$\\text{B}$", Option("B", "")),
        ("Red", None),
        ("A dog", None),
        ("b", None),
        ("", None),
    ],
)
def test_options_have_a_letter_and_words(text, option):
    assert parse_option(text) == option
