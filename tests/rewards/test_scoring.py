"""From outputs to rewards, whatever the output."""

import random
import time

import pytest

from resadapt_jax.rewards import (
    RewardConfig,
    TaskType,
    accuracy,
    extract_answer,
    is_success,
    score,
    score_batch,
)

TRUTHS = {
    TaskType.MULTIPLE_CHOICE: "B",
    TaskType.NUMERICAL: "7",
    TaskType.TEMPORAL_GROUNDING: "[3, 7]",
}


@pytest.mark.parametrize(
    ("task", "output", "parts"),
    [
        ("multiple choice", "<think>A</think><answer>B</answer>", (1.0, 1.0, 1.2)),
        ("multiple choice", "B", (1.0, 0.0, 1.0)),
        ("multiple choice", "<answer>B", (1.0, -1.0, 0.8)),
        ("multiple choice", "<think>B</think><answer>A</answer>", (0.0, 1.0, 0.2)),
        ("numerical", "I count 3, then 4.\nThe answer is 7.", (1.0, 0.0, 1.0)),
        ("numerical", "<think>7</think><answer>6</answer>", (0.0, 1.0, 0.2)),
        ("temporal grounding", "It happens\nfrom 3 to\n7 seconds.", (1.0, 0.0, 1.0)),
        ("temporal grounding", "<think>3 to 7</think>5 to 9", (1 / 3, 0.0, 1 / 3)),
    ],
)
def test_score(task, output, parts):
    result = score(task, output, TRUTHS[TaskType(task)])
    assert (result.accuracy, result.format, result.total) == pytest.approx(parts)


def test_config_reaches_every_grader():
    strict = RewardConfig(
        multiple_choice="paper",
        temporal_grounding="released",
        format_weight=0.5,
        require_boxed=True,
    )
    assert accuracy("multiple choice", "A or B", "B") == pytest.approx(2 / 3)
    assert accuracy("multiple choice", "A or B", "B", strict) == 0.0
    assert accuracy("temporal grounding", "[[0, 1], [3, 7]]", "[3, 7]") == 1.0
    assert accuracy("temporal grounding", "[[0, 1], [3, 7]]", "[3, 7]", strict) == 0.0
    output = "<think>x</think><answer>\\boxed{B}</answer>"
    assert score("multiple choice", output, "B", strict).total == 1.5
    assert score("multiple choice", output.replace("\\boxed", ""), "B", strict).total == 1.0


def test_batch_keeps_the_order():
    tasks = list(TaskType)
    scores = score_batch(tasks, ["B", "6", "5 to 9"], [TRUTHS[task] for task in tasks])
    assert [one.accuracy for one in scores] == pytest.approx([1.0, 0.0, 1 / 3])
    with pytest.raises(ValueError):
        score_batch(tasks, ["B"], ["B"])


def test_success_is_strictly_above_the_threshold():
    assert not is_success(0.35)
    assert is_success(0.351)
    # Naming all of four options is above it, of five below.
    assert is_success(accuracy("multiple choice", "A B C D", "B"))
    assert not is_success(accuracy("multiple choice", "A B C D E", "B"))


@pytest.mark.parametrize("label", ["multiple-choice", "Multiple_Choice", " multiple choice "])
def test_task_labels_are_normalised(label):
    assert TaskType(label) is TaskType.MULTIPLE_CHOICE


def test_unknown_task_is_an_error_that_names_the_known():
    with pytest.raises(ValueError, match="juggling.*temporal grounding"):
        score("juggling", "B", "B")


PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "{", "```", "\n", " ", "\t"),
    *("answer is", "答案是", "=", ":", ",", "-", "–", "to", "and", "start", "end", "s", "A", "B"),
    *("7", "3.5", "1,234", "1e9", "9" * 50, "'", '"', "[", "]", "(", ")"),
    *("\x00", "\ud800", "\u202e", "😀", "ﬁ", "½"),
]
TRAPS = ["1,", "1.", "1 ", "1-", "start 1 ", "end 1 ", "</think>\n", "answer is ", "\\boxed{{"]


@pytest.mark.parametrize("task", TaskType)
def test_no_string_raises_and_scores_stay_in_range(task):
    rng = random.Random(0)
    for _ in range(1500):
        output = "".join(rng.choices(PIECES, k=rng.randrange(30)))
        truth = TRUTHS[task] if rng.random() < 0.5 else "".join(rng.choices(PIECES, k=4))
        result = score(task, output, truth)
        assert 0.0 <= result.accuracy <= 1.0
        assert result.format in (-1.0, 0.0, 1.0)


@pytest.mark.parametrize("task", TaskType)
def test_long_outputs_take_linear_time(task):
    start = time.process_time()
    for piece in PIECES + TRAPS:
        for output in (piece * 200_000, "<answer>" + piece * 30_000, "start" + piece * 30_000):
            score(task, output, TRUTHS[task])
    # About a second in all; one quadratic pattern would take minutes.
    assert time.process_time() - start < 30.0


def test_the_answer_is_looked_for_at_the_end_of_a_long_output():
    assert extract_answer("x" * 1_000_000 + "\nThe answer is C") == "C"
    assert accuracy("temporal grounding", "hm, " * 20_000 + "3 to 7", "[3, 7]") == 1.0
