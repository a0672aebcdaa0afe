"""Grounding QA: an answer and its moment."""

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import RewardConfig, grounding_qa, is_success, score

TRUTH = "B <> [3.0, 7.0]"
IN_JSON = '{"answer": "B", "interval": [[3.0, 7.0]]}'


# Accuracy is (answer + iou) / 2.
@pytest.mark.parametrize(
    ("answer", "truth", "right", "iou"),
    rows(
        ("B <> [3.0, 7.0]", TRUTH, 1, 1.0, "both right"),
        ("B <> [5, 9]", TRUTH, 1, 2 / 6, "5 to 7 of 3 to 9"),
        ("B <> [8, 9]", TRUTH, 1, 0.0, "a moment elsewhere"),
        ("A <> [3, 7]", TRUTH, 0, 1.0, "another answer at the right moment"),
        ("A <> [8, 9]", TRUTH, 0, 0.0, "both wrong"),
        ("B", TRUTH, 1, 0.0, "no moment"),
        ("<> [3, 7]", TRUTH, 0, 1.0, "no answer"),
        ("[3, 7]", TRUTH, 0, 1.0, "a moment alone"),
        ("The answer is B <> [3,7]", TRUTH, 1, 1.0, "after a cue"),
        ("It barks.\nB <> [3, 7]", TRUTH, 1, 1.0, "the last line before the mark"),
        ("B [3,7]", TRUTH, 1, 1.0, "no mark"),
        ("B at [3,7]", TRUTH, 1, 1.0, "at for a mark"),
        ("B, from 3 to 7", TRUTH, 1, 1.0, "from"),
        ("B between 3 and 7", TRUTH, 1, 1.0, "between"),
        ("B\n[3,7]", TRUTH, 1, 1.0, "a line for each"),
        ("The answer is B: [[0, 1], [3, 7]]", TRUTH, 1, 1 / 2, "two moments: 1 times 1/2"),
        ("3 m [1m3s, 1m7s]", "3 m <> [63, 67]", 1, 1.0, "a unit in the answer"),
        ("B [3, 7]", "B [3, 7]", 1, 1.0, "a truth without a mark"),
        ("7 <> [3, 7]", "7.0 <> [3, 7]", 1, 1.0, "a number written otherwise"),
        ("E. coli <> [3, 7]", "E. faecalis <> [3, 7]", 0, 1.0, "an initial is no option"),
        ("7.01 <> [3, 7]", "7 <> [3, 7]", 0, 1.0, "another number"),
        ("", TRUTH, 0, 0.0, "nothing"),
        ("<>", TRUTH, 0, 0.0, "only the mark"),
        ("(B) <> 3 to 7", TRUTH, 1, 1.0, "in brackets and in words"),
        ("B. the dog <> [3, 7]", TRUTH, 1, 1.0, "the option with what it says"),
        ("B<>[3,7]", TRUTH, 1, 1.0, "without spaces"),
        ("B <> 7 to 3", TRUTH, 1, 1.0, "reversed"),
        ("B <> 0:03 to 0:07", TRUTH, 1, 1.0, "clock times"),
        ("B <> [-7, -3]", TRUTH, 1, 0.0, "negative times are not turned positive"),
        ("B <> [5, 5]", TRUTH, 1, 0.0, "no length"),
        ("B <> [[0, 1], [3, 7]]", TRUTH, 1, 1 / 2, "the best of two moments: 1 times 1/2"),
        ("b <> [3, 7]", TRUTH, 1, 1.0, "as text, case does not count"),
        ("A or B <> [3, 7]", TRUTH, 0, 1.0, "hedging is not exact"),
        ("B <> [3, 7] <> [0, 1]", TRUTH, 1, 1 / 2, "a second mark belongs to the moment"),
        ("B <> [3, 7]", IN_JSON, 1, 1.0, "the truth as JSON"),
        (IN_JSON, TRUTH, 1, 1.0, "the answer as JSON"),
        (IN_JSON, IN_JSON, 1, 1.0, "both as JSON"),
        ('{"answer": "A", "start": 3, "end": 7}', TRUTH, 0, 1.0, "start and end as JSON"),
        ('{"interval": [3, 7]}', TRUTH, 0, 1.0, "JSON without an answer"),
        ('{"answer": "B"}', TRUTH, 1, 0.0, "JSON without a moment"),
        ('{"answer": "B", ', TRUTH, 0, 0.0, "JSON that breaks off"),
        ("B <> [3, 7]", '{"qa": "B", "spans": [[3, 7], [9, 12]]}', 1, 1.0, "two true moments"),
        ("The dog. <> [3, 7]", "the dog <> [3, 7]", 1, 1.0, "a worded answer"),
        ("the cat <> [3, 7]", "the dog <> [3, 7]", 0, 1.0, "another worded answer"),
        ("Ｂ <> [3, 7]", TRUTH, 1, 1.0, "a full-width letter"),
        ("B <> [３, ７]", TRUTH, 1, 1.0, "full-width digits"),
        ("B <> [3, 7]", "", 0, 0.0, "an empty truth"),
        ("", "", 0, 0.0, "nothing and nothing"),
        ("__import__('os') <> [3, 7]", TRUTH, 0, 1.0, "code is text"),
    ),
)
def test_grounding_qa(answer, truth, right, iou):
    grade = grounding_qa(answer, truth)
    assert grade.parts == pytest.approx({"answer": right, "iou": iou})
    assert grade.accuracy == pytest.approx((right + iou) / 2)


def test_it_explains_itself():
    grade = grounding_qa("A <> 5 to 9", TRUTH)
    assert grade.extracted == "A <> [5, 9]"
    assert grade.reason == "answer 'A' vs 'B'; IoU 0.333 of [5, 9] with [3, 7]"


def test_success_needs_the_answer_or_nearly_all_of_the_moment():
    # (1 + 0)/2 is above .35; a wrong answer needs an IoU above .7: 3 to 5.9 of 3 to 7 is .725
    assert is_success(grounding_qa("B <> [8, 9]", TRUTH).accuracy)
    assert not is_success(grounding_qa("A <> [3, 5.7]", TRUTH).accuracy)
    assert is_success(grounding_qa("A <> [3, 5.9]", TRUTH).accuracy)


def test_the_answer_may_stand_in_its_tags():
    for output in ("<answer>The answer is B <> [3, 7]</answer>", "<answer>B [3, 7]</answer>"):
        assert score("gqa", output, TRUTH).accuracy == 1.0


def test_the_released_form_ends_at_the_general_matcher():
    released = RewardConfig(grounding_qa="released")
    assert score("gqa", "B <> [5, 9]", IN_JSON, released).accuracy == 0.0
    assert score("gqa", IN_JSON, IN_JSON, released).accuracy == 1.0
    assert score("gqa", "B <> [5, 9]", IN_JSON).accuracy == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for pair in ((text, TRUTH), (TRUTH, text), (text, text)):
        assert 0.0 <= grounding_qa(*pair).accuracy <= 1.0
