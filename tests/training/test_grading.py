"""Generated tokens to rewards."""

import numpy as np

from resadapt_jax.data.toy_world import TASKS
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.grading import TASK_TYPES, grade, read_texts


def test_answers_are_graded_by_their_task():
    texts = np.array([["C", "7"], ["7", "C"], ["4 to 5", "4 to 6"]])[:, :, None]
    mask = np.ones((*texts.shape, 1), bool)
    tasks = np.array(["which", "how_many", "when"])
    truths = np.array(["C", "7", "4 to 5"])
    config = RewardConfig(format_weight=0.0)
    parts = grade(texts, mask, tasks, truths, config)
    # [4, 6] against [4, 5]: intersection 1 second, union 2.
    np.testing.assert_allclose(parts["accuracy"][:, :, 0], [[1, 0], [1, 0], [1, 0.5]])
    assert parts.keys() == {"accuracy"}


def test_texts_are_read_from_the_tokens_that_count():
    ids = np.array([[[3, 4, 0], [5, 0, 0]]])
    mask = np.array([[[True, True, False], [True, False, False]]])
    assert read_texts(ids, mask, lambda row: str(row.tolist())).tolist() == [["[3, 4]", "[5]"]]


def test_only_one_class_per_task():
    assert set(TASK_TYPES) == set(TASKS)
