"""From generated tokens to accuracy, on the host."""

from collections.abc import Callable
from typing import Any

import numpy as np

from resadapt_jax import rewards

# What a task of the embedded world is graded as.
TASK_TYPES = {
    "which": rewards.TaskType.MULTIPLE_CHOICE,
    "how_many": rewards.TaskType.NUMERICAL,
    "when": rewards.TaskType.TEMPORAL_GROUNDING,
}


def grade(
    token_ids: np.ndarray,
    mask: np.ndarray,
    tasks: np.ndarray,
    truths: np.ndarray,
    decode: Callable[[Any], str],
) -> np.ndarray:
    """Accuracy of each generated answer: float32, the shape of ``token_ids`` less its last axis."""
    scores = np.zeros(token_ids.shape[:-1], np.float32)
    for place in np.ndindex(scores.shape):
        text = decode(token_ids[place][mask[place]])
        task = TASK_TYPES[str(tasks[place[0]])]
        scores[place] = rewards.accuracy(task, text, str(truths[place[0]]))
    return scores
