"""From generated tokens to rewards, on the host."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from resadapt_jax import rewards
from resadapt_jax.errors import UserError
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.mesh import sum_over_processes
from resadapt_jax.typing import Bool, Float, Int, Shaped

_UNKNOWN = "unknown task"


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


class Grades(NamedTuple):
    """What answers are worth.

    Attributes:
        parts: of the reward, float32: ``accuracy`` always; ``format`` where it has a weight,
            ``overlong`` where there is a buffer.
        decided: false where grading gave up, so that nothing may be learnt from it.
    """

    parts: dict[str, Float[np.ndarray, "B *S"]]
    decided: Bool[np.ndarray, "B *S"]


def grade(
    texts: Shaped[np.ndarray, "B *S"],
    mask: Bool[np.ndarray, "B *S T"],
    problem_types: Sequence[str],
    truths: Sequence[str],
    config: RewardConfig,
) -> Grades:
    """The reward of each generated answer, in parts.

    Args:
        mask: of the answers' tokens; T is the longest that an answer can be.
        problem_types: of each prompt, a label of `rewards.TaskType`.
    """
    prompts = [place[0] for place in np.ndindex(texts.shape)]
    kinds = [problem_types[b] for b in prompts]
    scores = rewards.shared_pool(config.num_workers).score_batch(
        kinds, texts.ravel().tolist(), [str(truths[b]) for b in prompts], config
    )
    parts = {"accuracy": _gather([one.accuracy for one in scores], texts.shape)}
    if config.format_weight:
        parts["format"] = _gather([one.format for one in scores], texts.shape)
    if config.overlong_buffer:
        longest = mask.shape[-1]
        penalty = rewards.overlong_penalty(mask.sum(axis=-1), longest, config.overlong_buffer)
        parts["overlong"] = penalty
    return Grades(parts, np.array([one.decided for one in scores]).reshape(texts.shape))


def reward_per_kind(
    accuracy: Float[np.ndarray, "B M N"],
    decided: Bool[np.ndarray, "B M N"],
    problem_types: Sequence[str],
) -> dict[str, float]:
    """Mean accuracy of the kinds of which anything was graded, over all processes together."""
    right = np.where(decided, accuracy, 0.0).sum(axis=(1, 2))
    graded = decided.sum(axis=(1, 2))
    names = np.array([_kind_name(label) for label in problem_types])
    # every process counts the same names, whether its prompts have them or not
    known = (*(kind.value for kind in rewards.TaskType), _UNKNOWN)
    sums = np.array([[right[names == name].sum(), graded[names == name].sum()] for name in known])
    totals = sum_over_processes(sums)
    return {
        f"reward_{name.replace(' ', '_')}": total / count
        for name, (total, count) in zip(known, totals, strict=True)
        if count
    }


def _kind_name(label: str) -> str:
    try:
        return rewards.TaskType(label).value
    except UserError:  # graded as the config's default
        return _UNKNOWN


def _gather(values: Sequence[float], shape: tuple[int, ...]) -> Float[np.ndarray, "B *S"]:
    return np.array(values, np.float32).reshape(shape)
