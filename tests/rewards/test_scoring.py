"""From outputs to rewards, whatever the output."""

import dataclasses
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reward_tables import HOSTILE

from resadapt_jax.config import from_json, override, to_json
from resadapt_jax.errors import UserError
from resadapt_jax.rewards import (
    SUCCESS_THRESHOLD,
    RewardConfig,
    TaskType,
    extract_answer,
    is_success,
    score,
)
from resadapt_jax.rewards.results import from_record, to_record

ROOT = Path(__file__).resolve().parents[2]

TRUTHS = {
    TaskType.MULTIPLE_CHOICE: "B",
    TaskType.NUMERICAL: "7",
    TaskType.MATHEMATICS: "x + 1",
    TaskType.OCR: "STOP",
    TaskType.OPEN_ENDED: "a dog runs",
    TaskType.FREE_FORM: "a dog runs",
    TaskType.REGRESSION: "7",
    TaskType.TEMPORAL_GROUNDING: "[3, 7]",
    TaskType.GROUNDING_QA: "B <> [3, 7]",
    TaskType.EXACT_MATCH: "dog",
    TaskType.GENERAL: "1, 2",
}


# The parts are accuracy, format and accuracy + format/5.
@pytest.mark.parametrize(
    ("task", "output", "parts"),
    [
        ("multiple choice", "<think>A</think><answer>B</answer>", (1.0, 1.0, 1.2)),
        ("multiple choice", "B", (1.0, 0.0, 1.0)),
        ("multiple choice", "<answer>B", (1.0, -1.0, 0.8)),
        ("multiple choice", "<think>B</think><answer>A</answer>", (0.0, 1.0, 0.2)),
        ("numerical", "I count 3, then 4.\nThe answer is 7.", (1.0, 0.0, 1.0)),
        ("numerical", "<think>7</think><answer>6</answer>", (0.0, 1.0, 0.2)),
        ("math", "<think>x</think><answer>\\boxed{1+x}</answer>", (1.0, 1.0, 1.2)),
        ("ocr", "<think>GO</think>STOP", (1.0, 0.0, 1.0)),
        ("open-ended", "<answer>a dog\nruns</answer>", (1.0, 0.0, 1.0)),
        ("regression", "about 14 in all, or rather \\boxed{10.5}", (0.5, 0.0, 0.5)),
        ("temporal grounding", "It happens\nfrom 3 to\n7 seconds.", (1.0, 0.0, 1.0)),
        ("temporal grounding", "<think>3 to 7</think>5 to 9", (1 / 3, 0.0, 1 / 3)),
        ("temporal grounding", "<think>3 to 7", (0.0, -1.0, -0.2)),
        ("gqa", "<answer>A <> [3, 7]</answer>", (0.5, 0.0, 0.5)),
        ("exact_match", "The answer is: Dog.", (1.0, 0.0, 1.0)),
        (None, "\\boxed{2, 1}", (1.0, 0.0, 1.0)),
    ],
)
def test_score(task, output, parts):
    result = score(task, output, TRUTHS[TaskType(task)])
    assert (result.accuracy, result.format, result.total) == pytest.approx(parts)
    assert result.task is TaskType(task)


def test_a_score_explains_itself():
    result = score("multiple-choice", "<think>B</think><answer>A or C</answer>", "B")
    assert result.task is TaskType.MULTIPLE_CHOICE
    assert (result.extracted, result.reason) == ("A, C", "letters {A, C} vs {B}")
    assert from_record(to_record(result)) == result


@pytest.mark.parametrize("task", TaskType)
@pytest.mark.parametrize("answer", ["\\boxed{}", "\\boxed{ }", "<answer></answer>", "<answer> \n"])
def test_an_empty_answer_is_wrong(task, answer):
    assert score(task, f"<think>{TRUTHS[task]}</think>{answer}", TRUTHS[task]).accuracy == 0.0


@pytest.mark.parametrize("truth", ["<answer>7</answer>", "\\boxed{7}", "<think>x</think>7", " 7\n"])
def test_a_truth_may_stand_in_tags(truth):
    assert score("exact_match", "7", truth).accuracy == 1.0


# What tells the two forms apart: an output to which they give different accuracies.
@pytest.mark.parametrize(
    ("field", "task", "output", "truth", "paper", "released"),
    [
        ("multiple_choice", "multiple choice", "A or B", "B", 0.0, 2 / 3),
        ("numerical", "numerical", "1/2", "0.5", 0.0, 1.0),
        ("mathematics", "math", "1+x", "x+1", 1.0, 0.0),
        ("open_ended", "open-ended", "dogs run", "run dogs", 0.5, (1 + 0 + 0.5) / 3),
        ("free_form", "free-form", "7.0", "7", 2 / 3, 1.0),
        ("temporal_grounding", "iou", "[[0, 1], [3, 7]]", "[3, 7]", 0.5, 0.0),
        ("grounding_qa", "gqa", "A <> [3, 7]", "B <> [3, 7]", 0.5, 0.0),
        ("exact_match", "exact_match", "7.0", "7", 0.0, 1.0),
        ("general", "none", "7.0", "7", 0.0, 1.0),
    ],
)
def test_every_choice_reaches_its_grader(field, task, output, truth, paper, released):
    for form, expected in (("paper", paper), ("released", released)):
        config = RewardConfig(**{field: form})
        assert score(task, output, truth, config).accuracy == pytest.approx(expected)


def test_format_and_its_weights():
    output = "<think>x</think><answer>B</answer>"
    strict = RewardConfig(format="paper", format_weight=0.5, malformed=-2.0)
    assert score("multiple choice", output, "B", strict).total == 1.0
    assert score("multiple choice", output, "B").total == 1.2
    boxed = output.replace("B", "\\boxed{B}")
    assert score("multiple choice", boxed, "B", strict).total == 1.5
    assert score("multiple choice", "<think>B", "A", strict).total == -1.0


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"general": "theirs"}, "general must be paper or released, got 'theirs'"),
        ({"format": "html"}, "format must be paper or released, got 'html'"),
        ({"format_weight": -1.0}, "format_weight must not be negative, got -1.0"),
        ({"format_weight": float("nan")}, "format_weight must be finite, got nan"),
        ({"overlong_buffer": -1}, "overlong_buffer must not be negative, got -1"),
        ({"num_workers": -1}, "num_workers must not be negative, got -1"),
        ({"maths_seconds": 0.0}, "maths_seconds must be positive, got 0.0"),
        ({"maths_seconds": math.inf}, "maths_seconds must be finite, got inf"),
        ({"malformed": math.nan}, "malformed must be finite, got nan"),
        ({"default_task": "juggling"}, "unknown task type 'juggling'"),
    ],
)
def test_a_config_that_makes_no_sense(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        RewardConfig(**fields)


def test_the_config_goes_to_json_and_the_command_line():
    config = RewardConfig(general="paper", default_task="math", maths_seconds=0.5)
    assert from_json(to_json(config), RewardConfig) == config
    flags = ["--general", "paper", "--default-task", "math", "--maths-seconds", "0.5"]
    assert override(RewardConfig(), flags) == config
    with pytest.raises(UserError, match="unknown field"):
        override(RewardConfig(), ["--require-boxed", "True"])


def test_success_is_strictly_above_the_threshold():
    assert SUCCESS_THRESHOLD == 0.35
    assert not is_success(0.35)
    assert is_success(0.351)
    assert not is_success(0.5, threshold=0.5)
    # As released, naming all of four options is above it; it is no way to succeed by default.
    released = RewardConfig(multiple_choice="released")
    assert is_success(score("multiple choice", "A B C D", "B", released).accuracy)
    assert not is_success(score("multiple choice", "A B C D", "B").accuracy)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    released = {field: "released" for field in ("mathematics", "free_form", "numerical")}
    for config in (RewardConfig(), RewardConfig(**released)):
        for task in TaskType:
            result = score(task, text, TRUTHS[task], config)
            assert 0.0 <= result.accuracy <= 1.0
            assert result.format in (-1.0, 0.0, 1.0)
            assert len(result.reason) < 200 and result.reason.isprintable()
            dataclasses.replace(result, reason="")


TRAPS = [
    *("1,", "1.", "1 ", "1-", "1:", "1/", "start 1 ", "end 1 ", "</think>\n", "answer is ", "a b "),
    *("\\boxed{{", "\\text{", "**", "\\frac{", "^{", "sqrt(", "{", "\u0301", "½", "²", "0 to 1, "),
    *("9" * 50, "start" + " " * 30, "\\frac{1}{", "(", "e1", "A.", "<answer>", "<answer></answer>"),
]


@pytest.mark.parametrize("task", TaskType)
def test_long_outputs_take_linear_time(task):
    score(task, "x+1", TRUTHS[task])  # libraries are imported, the checker is started
    for piece in TRAPS:
        for output in (piece * 100_000, "<answer>" + piece * 2_000, f"\\boxed{{{piece * 500}}}"):
            start = time.process_time()
            score(task, output, TRUTHS[task])
            # a few milliseconds; one quadratic pattern would take minutes
            assert time.process_time() - start < 1.0, piece


def test_the_answer_is_looked_for_at_the_end_of_a_long_output():
    assert extract_answer("x" * 1_000_000 + "\nThe answer is C") == "C"
    assert score("temporal grounding", "hm, " * 20_000 + "3 to 7", "[3, 7]").accuracy == 1.0


def test_importing_is_cheap():
    heavy = ("jax", "jaxtyping", "sympy", "math_verify", "nltk", "rouge_score", "scipy", "pyarrow")
    program = (
        "import sys, time; start = time.process_time(); import resadapt_jax.rewards; "
        f"print(time.process_time() - start, *(set({heavy!r}) & set(sys.modules)))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [run[1:] for run in runs] == [[], []]
    assert min(float(run[0]) for run in runs) < 0.3
