"""Generated tokens to rewards."""

import numpy as np
import pytest

from resadapt_jax.data.toy_questions import PROBLEM_TYPES, TASKS
from resadapt_jax.errors import UserError
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.grading import grade, read_texts, reward_per_kind


def test_answers_are_graded_by_their_task():
    texts = np.array([["C", "7"], ["7", "C"], ["4 to 5", "4 to 6"]])[:, :, None]
    mask = np.ones((*texts.shape, 1), bool)
    kinds = [PROBLEM_TYPES[task] for task in TASKS]
    truths = np.array(["C", "7", "4 to 5"])
    config = RewardConfig(format_weight=0.0)
    parts = grade(texts, mask, kinds, truths, config).parts
    # [4, 6] against [4, 5]: intersection 1 second, union 2.
    np.testing.assert_allclose(parts["accuracy"][:, :, 0], [[1, 0], [1, 0], [1, 0.5]])
    assert parts.keys() == {"accuracy"}


def test_answers_are_graded_by_the_labels_of_real_data():
    texts = np.array([["C", "A or C"], ["B <> [5, 9]", "A"], ["x", "Dog"]], object)[:, :, None]
    mask = np.ones((*texts.shape, 1), bool)
    tasks = np.array(["multiple-choice", "gqa", "juggling"], object)
    truths = np.array(["C", "B <> [3, 7]", "dog"], object)
    config = RewardConfig(format_weight=0.2, default_task="exact_match")
    parts = grade(texts, mask, tasks, truths, config).parts
    # {A, C} is not {C}; the mean of 1 and an IoU of 2/6
    expected = np.array([[1, 0], [2 / 3, 0], [0, 1]])
    np.testing.assert_allclose(parts["accuracy"][:, :, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(parts["format"], 0.0)
    decided = np.ones(texts.shape, bool)
    means = reward_per_kind(parts["accuracy"], decided, tasks)
    named = {"reward_multiple_choice": 1 / 2, "reward_grounding_qa": 1 / 3}
    assert means == pytest.approx({**named, "reward_unknown_task": 0.5})
    # the wrong choice was not graded: it is no wrong one
    decided[0, 1], decided[1] = False, False
    means = reward_per_kind(parts["accuracy"], decided, tasks)
    assert means == pytest.approx({"reward_multiple_choice": 1.0, "reward_unknown_task": 0.5})
    with pytest.raises(UserError, match="unknown task type 'juggling'"):
        grade(texts, mask, tasks, truths, RewardConfig())


def test_processes_that_grade_give_the_same():
    texts = np.array([["C", "7"], ["7", "<think>"]])[:, :, None]
    mask = np.ones((*texts.shape, 3), bool)
    batch = texts, mask, np.array(["multiple choice", "numerical"]), np.array(["C", "7"])
    alone = grade(*batch, RewardConfig(overlong_buffer=2)).parts
    together = grade(*batch, RewardConfig(overlong_buffer=2, num_workers=1)).parts
    assert together.keys() == alone.keys() == {"accuracy", "format", "overlong"}
    for name, part in alone.items():
        np.testing.assert_array_equal(together[name], part)
        assert together[name].dtype == np.float32


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_answer_that_grading_gave_up_on_is_marked(num_workers):
    """In no time at all no two expressions are compared, while equal texts are."""
    texts = np.array([["sin(x)+cos(x)", "cos(x)+sin(x)"]], object)[:, :, None]
    config = RewardConfig(maths_seconds=1e-3, num_workers=num_workers)
    grades = grade(texts, np.ones((*texts.shape, 1)), ["math"], ["sin(x)+cos(x)"], config)
    np.testing.assert_array_equal(grades.parts["accuracy"].ravel(), [1.0, 0.0])
    np.testing.assert_array_equal(grades.decided.ravel(), [True, False])


def test_texts_are_read_from_the_tokens_that_count():
    ids = np.array([[[3, 4, 0], [5, 0, 0]]])
    mask = np.array([[[True, True, False], [True, False, False]]])
    assert read_texts(ids, mask, lambda row: str(row.tolist())).tolist() == [["[3, 4]", "[5]"]]
