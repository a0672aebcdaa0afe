"""Ground truths that could not be graded against."""

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import RewardConfig, TaskType, check_truth, score


@pytest.mark.parametrize(
    ("task", "truth"),
    [
        ("multiple choice", "B"),
        ("multiple choice", "yes"),
        ("multiple choice", "<answer>B</answer>"),
        ("numerical", "7"),
        ("numerical", "7 km"),
        ("numerical", "<answer>7</answer>"),
        ("numerical", "$\\boxed{7}$"),
        ("math", "\\frac{1}{2}"),
        ("math", "x+1"),
        ("math", "12 apples"),
        ("math", "an even number"),
        ("OCR", "STOP"),
        ("OCR", "!"),
        ("open-ended", "a dog runs"),
        ("free-form", "狗在跑"),
        ("regression", "3.5"),
        ("iou", "[3, 7]"),
        ("iou", "7 to 3"),
        ("iou", "[[3, 3], [4, 5]]"),
        ("iou", "0:03 to 0:07"),
        ("gqa", "B <> [3, 7]"),
        ("gqa", '{"answer": "B", "interval": [[3, 7]]}'),
        ("exact_match", "dog"),
        (None, "dog"),
        ("", "{"),
    ],
)
def test_truths_that_will_do(task, truth):
    assert check_truth(task, truth) is None


@pytest.mark.parametrize(
    ("task", "truth", "reason"),
    [
        *((task, "", "the ground truth is empty") for task in TaskType),
        *((task, " \u200b\n", "the ground truth is empty") for task in TaskType),
        ("numerical", "<answer></answer>", "no answer in ground truth '<answer></answer>'"),
        ("numerical", "seven", "no one number in ground truth 'seven'"),
        ("numerical", "3 or 4", "no one number in ground truth '3 or 4'"),
        ("regression", "many", "no one number in ground truth 'many'"),
        ("regression", "nan", "no one number in ground truth 'nan'"),
        ("math", "😀", "ground truth '😀': a character that no expression has"),
        ("math", "9" * 41, "ground truth '999"),
        ("math", "\\frac{1}{", "ground truth '\\frac{1}{': brackets that do not match"),
        ("open-ended", "?!", "no words in ground truth '?!'"),
        ("iou", "3", "no interval in ground truth '3'"),
        ("iou", "[5, 5]", "no interval of any length in ground truth '[5, 5]'"),
        ("iou", "[-2, 4]", "an interval before the clip in ground truth '[-2, 4]'"),
        ("gqa", "B", "no interval in ground truth ''"),
        ("gqa", "<> [3, 7]", "no answer in ground truth '<> [3, 7]'"),
        ("gqa", '{"answer": "B"}', "no interval in ground truth '{}'"),
        ("ocr", "x" * 5000, "the ground truth is longer than 4096 characters"),
        ("juggling", "B", "unknown task type 'juggling'"),
        ("numerical", 7, "a ground truth is text, got int"),
        ("numerical", None, "a ground truth is text, got NoneType"),
    ],
)
def test_truths_that_will_not(task, truth, reason):
    assert check_truth(task, truth).startswith(reason)


def test_what_is_asked_of_a_truth_depends_on_how_it_is_graded():
    released = RewardConfig(
        numerical="released",
        mathematics="released",
        open_ended="released",
        free_form="released",
        grounding_qa="released",
    )
    assert check_truth("numerical", "seven", released) is None
    assert check_truth("math", "x+1", released) == "no plain number in ground truth 'x+1'"
    assert check_truth("open-ended", "狗在跑", released) == "no words in ground truth '狗在跑'"
    assert check_truth("free-form", "?!", released) is None
    assert check_truth("gqa", "B", released) is None
    assert check_truth("juggling", "seven", RewardConfig(default_task="numerical")) is not None


@pytest.mark.parametrize("truth", HOSTILE)
def test_nothing_makes_it_raise(truth):
    for task in TaskType:
        reason = check_truth(task, truth)
        assert reason is None or (reason and "\n" not in reason)


# An ideal answer to a truth that passes gets full marks, so passing means something.
@pytest.mark.parametrize(
    ("task", "truth"),
    rows(
        ("multiple choice", "B. the red sign", "an option with what it says"),
        ("numerical", "$7$", "a number in dollar signs"),
        ("math", "$\\frac{\\sqrt{3}}{2}$", "an expression in dollar signs"),
        ("ocr", "a b\nc", "text of two lines"),
        ("open-ended", "A dog runs.", "a sentence"),
        ("free-form", "A dog runs.", "another"),
        ("regression", "3.5", "a number"),
        ("iou", "[3, 7]", "an interval"),
        ("gqa", '{"answer": "B", "interval": [[3, 7]]}', "JSON"),
        ("exact_match", "dog", "a word"),
        ("general", "{1, 2}", "a set"),
    ),
)
def test_the_truth_itself_is_the_right_answer(task, truth):
    assert check_truth(task, truth) is None
    assert score(task, truth, truth).accuracy == 1.0
