"""Group-normalised advantages: what an answer scored relative to the others of its prompt."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupNorm:
    """How a group is centred and scaled.

    Attributes:
      unbiased: divide squared deviations by count - 1 instead of count.
      epsilon: added to the standard deviation.
      min_std: below it the group is a tie and every advantage is 0. Without it, rounding noise in
        the mean of equal rewards would be blown up to the size of ``epsilon``.
    """

    unbiased: bool = False
    epsilon: float = 1e-6
    min_std: float = 1e-4


def normalise(
    values: Float[Array, "*S"],
    mask: Bool[Array, "*S"] | None = None,
    *,
    axis: int | tuple[int, ...],
    norm: GroupNorm = GroupNorm(),
) -> Float[Array, "*S"]:
    """(x - mean) / (std + ε) over ``axis``, counting only entries where ``mask``; 0 elsewhere.

    A group of one, or with a standard deviation below ``norm.min_std``, gives zeros.
    """
    values = jnp.asarray(values, jnp.float32)
    mask = jnp.ones(values.shape, bool) if mask is None else mask
    values = jnp.where(mask, values, 0.0)
    count = jnp.sum(mask, axis, keepdims=True)
    mean = jnp.sum(values, axis, keepdims=True) / jnp.maximum(count, 1)
    deviation = jnp.where(mask, values - mean, 0.0)
    freedom = jnp.maximum(count - norm.unbiased, 1)
    std = jnp.sqrt(jnp.sum(deviation**2, axis, keepdims=True) / freedom)
    return jnp.where(std < norm.min_std, 0.0, deviation / (std + norm.epsilon))


def grpo(
    rewards: Float[Array, "*B M N"],
    mask: Bool[Array, "*B M N"] | None = None,
    *,
    group: Literal["prompt", "allocation"] = "prompt",
    norm: GroupNorm = GroupNorm(unbiased=True),
) -> Float[Array, "*B M N"]:
    """GRPO: A = (R - mean R) / (std R + ε), one advantage per answer.

    Args:
      rewards: task reward of each answer.
      mask: answers that count; the others neither enter the statistics nor get an advantage.
      group: ``"prompt"`` compares all M·N answers to a prompt (the backbone's update, ResAdapt
        eq. 24), ``"allocation"`` the N answers given the same pixels.
      norm: the backbone's update takes the unbiased standard deviation.
    """
    axis = (-2, -1) if group == "prompt" else -1
    return normalise(rewards, mask, axis=axis, norm=norm)
