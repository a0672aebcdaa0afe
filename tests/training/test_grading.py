"""Generated tokens to rewards."""

import numpy as np

from resadapt_jax.data.toy_world import TASKS
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.grading import TASK_TYPES, grade


def test_answers_are_graded_by_their_task():
    texts = {1: "C", 2: "7", 3: "4 to 5", 4: "4 to 6"}
    ids = np.array([[[1], [2]], [[2], [1]], [[3], [4]]])[:, :, None, :]
    mask = np.ones(ids.shape, bool)
    tasks = np.array(["which", "how_many", "when"])
    truths = np.array(["C", "7", "4 to 5"])
    config = RewardConfig(format_weight=0.0)
    parts = grade(ids, mask, tasks, truths, lambda row: texts[int(row[0])], config)
    # [4, 6] against [4, 5]: intersection 1 second, union 2.
    np.testing.assert_allclose(parts["accuracy"][:, :, 0], [[1, 0], [1, 0], [1, 0.5]])
    assert parts.keys() == {"accuracy"}


def test_only_one_class_per_task():
    assert set(TASK_TYPES) == set(TASKS)
