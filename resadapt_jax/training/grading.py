"""From generated tokens to rewards, on the host."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from resadapt_jax import rewards
from resadapt_jax.rewards.scoring import RewardConfig
from resadapt_jax.training.mesh import sum_over_processes
from resadapt_jax.typing import Bool, Float, Int, Shaped

# What a task of the embedded world is graded as.
TASK_TYPES = {
    "which": rewards.TaskType.MULTIPLE_CHOICE,
    "how_many": rewards.TaskType.NUMERICAL,
    "when": rewards.TaskType.TEMPORAL_GROUNDING,
}


def read_texts(
    token_ids: Int[np.ndarray, "*S T"],
    mask: Bool[np.ndarray, "*S T"],
    decode: Callable[[Any], str],
) -> Shaped[np.ndarray, "*S"]:
    """What generated answers say."""
    texts = np.empty(mask.shape[:-1], object)
    for place in np.ndindex(texts.shape):
        texts[place] = decode(token_ids[place][mask[place]])
    return texts


def grade(
    texts: Shaped[np.ndarray, "B *S"],
    mask: Bool[np.ndarray, "B *S T"],
    tasks: Sequence[str],
    truths: Sequence[str],
    config: RewardConfig,
) -> dict[str, Float[np.ndarray, "B *S"]]:
    """The reward of each generated answer, in parts: float32.

    ``accuracy`` always; ``format`` where it has a weight, ``overlong`` where there is a buffer.

    Args:
        mask: of the answers' tokens; T is the longest that an answer can be.
    """
    parts = {"accuracy": np.zeros(texts.shape, np.float32)}
    if config.format_weight:
        parts["format"] = np.zeros_like(parts["accuracy"])
    for place in np.ndindex(texts.shape):
        task, truth = TASK_TYPES[str(tasks[place[0]])], str(truths[place[0]])
        text = texts[place]
        parts["accuracy"][place] = rewards.accuracy(task, text, truth, config)
        if config.format_weight:
            parts["format"][place] = rewards.format_reward(text, require_boxed=config.require_boxed)
    if config.overlong_buffer:
        longest = mask.shape[-1]
        penalty = rewards.overlong_penalty(mask.sum(axis=-1), longest, config.overlong_buffer)
        parts["overlong"] = penalty
    return parts


def reward_per_task(accuracy: Float[np.ndarray, "B M N"], tasks: np.ndarray) -> dict[str, float]:
    """Mean accuracy of the tasks that occur anywhere in the batch, of all processes together."""
    per_prompt = accuracy.mean(axis=(1, 2))
    sums = np.array([[per_prompt[tasks == t].sum(), (tasks == t).sum()] for t in TASK_TYPES])
    totals = sum_over_processes(sums)
    return {
        f"reward_{task}": total / count
        for task, (total, count) in zip(TASK_TYPES, totals, strict=True)
        if count
    }
