"""Multiple choice: F1 over stand-alone capital letters."""

import pytest

from resadapt_jax.rewards import multiple_choice


# F1 = 2·common/(named + expected), worked out beside the rows that are not 0 or 1.
@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("B", "B", 1.0),
        ("A", "B", 0.0),
        ("(B)", "B", 1.0),
        ("B.", "B", 1.0),
        ("B) the red sign", "B", 1.0),
        ("**B**", "B", 1.0),
        ("[B]", "(B)", 1.0),
        ("option B", "B", 1.0),
        ("选B", "B", 1.0),
        ("$B$", "B", 1.0),
        ("B", "B. the red sign", 1.0),
        ("B B B", "B", 1.0),
        ("B_", "B", 0.0),
        ("b", "B", 0.0),
        ("", "B", 0.0),
        ("the second one", "B", 0.0),
        ("BC", "B", 0.0),
        ("B2", "B", 0.0),
        ("Because", "B", 0.0),
        ("B's", "B", 0.0),
        ("I'd say B", "B", 1.0),
        # hedging: named 2, 3, 4, 5
        ("A or B", "B", 2 / 3),
        ("A, B, C", "B", 2 / 4),
        ("A B C D", "B", 2 / 5),
        ("A/B/C/D/E", "B", 2 / 6),
        ("I think B", "B", 2 / 3),
        ("A, C", "A, C", 1.0),
        ("C and A", "A, C", 1.0),
        ("A", "A, C", 2 / 3),
        ("A, B, C", "A, C", 4 / 5),
        ("A, B", "C, D", 0.0),
        ("A\ud800B", "B", 2 / 3),
        # a truth without letters is text
        ("yes", "yes", 1.0),
        ("Yes.", "yes", 1.0),
        (" the  RED sign! ", "the red sign", 1.0),
        ("no", "yes", 0.0),
        ("", "yes", 0.0),
        ("ｙｅｓ", "yes", 1.0),
        ("the redsign", "the red sign", 0.0),
    ],
)
def test_released(answer, truth, score):
    assert multiple_choice(answer, truth) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("B", "B", 1.0),
        ("(B)", "B", 1.0),
        ("A or B", "B", 0.0),
        ("A B C D", "B", 0.0),
        ("C, A", "A, C", 1.0),
        ("A", "A, C", 0.0),
        ("Yes", "yes", 1.0),
    ],
)
def test_paper_asks_for_equality(answer, truth, score):
    assert multiple_choice(answer, truth, "paper") == score
