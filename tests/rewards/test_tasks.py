"""Labels of the data."""

import pytest

from resadapt_jax.errors import UserError
from resadapt_jax.rewards import RewardConfig, TaskType, score
from resadapt_jax.rewards.tasks import TASKS


@pytest.mark.parametrize(
    ("label", "task"),
    [
        ("multiple choice", TaskType.MULTIPLE_CHOICE),
        ("multiple-choice", TaskType.MULTIPLE_CHOICE),
        ("Multiple_Choice", TaskType.MULTIPLE_CHOICE),
        (" multiple  choice\n", TaskType.MULTIPLE_CHOICE),
        ("numerical", TaskType.NUMERICAL),
        ("math", TaskType.MATHEMATICS),
        ("OCR", TaskType.OCR),
        ("open-ended", TaskType.OPEN_ENDED),
        ("free-form", TaskType.FREE_FORM),
        ("free_form", TaskType.FREE_FORM),
        ("regression", TaskType.REGRESSION),
        ("iou", TaskType.TEMPORAL_GROUNDING),
        ("IoU", TaskType.TEMPORAL_GROUNDING),
        ("temporal grounding", TaskType.TEMPORAL_GROUNDING),
        ("gqa", TaskType.GROUNDING_QA),
        ("grounding-qa", TaskType.GROUNDING_QA),
        ("exact_match", TaskType.EXACT_MATCH),
        ("exact match", TaskType.EXACT_MATCH),
        ("general", TaskType.GENERAL),
        ("none", TaskType.GENERAL),
        ("None", TaskType.GENERAL),
        ("", TaskType.GENERAL),
        (None, TaskType.GENERAL),
    ],
)
def test_labels_of_real_data_are_found(label, task):
    assert TaskType(label) is task
    assert RewardConfig().task_of(label) is task


@pytest.mark.parametrize("label", ["juggling", "multiple", "multiplechoice", "nan", "math qa", 7])
def test_an_unknown_label_is_an_error_that_names_the_known(label):
    with pytest.raises(UserError, match=f"unknown task type {label!r}; known are .*'ocr'"):
        TaskType(label)
    with pytest.raises(UserError):
        score(label, "B", "B")


def test_unless_a_default_is_configured():
    config = RewardConfig(default_task="exact_match")
    assert config.task_of("juggling") is TaskType.EXACT_MATCH
    assert config.task_of("math") is TaskType.MATHEMATICS
    assert score("juggling", "Dog", "dog", config).task is TaskType.EXACT_MATCH
    with pytest.raises(UserError, match="unknown task type 'nonsense'"):
        RewardConfig(default_task="nonsense")


def test_every_task_type_has_a_row_in_the_table_of_kinds():
    assert list(TASKS) == list(TaskType)
