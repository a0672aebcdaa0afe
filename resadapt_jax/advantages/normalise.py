"""What an answer scored relative to the others of its prompt, and whether they differ at all."""

import dataclasses

import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupNorm:
    """How a group is centred and scaled.

    Attributes:
      divide_by_std: False only centres, as Dr.GRPO does (arXiv 2503.20783): dividing gives the same
        weight to a prompt that nearly every answer got right as to one that half of them did.
      unbiased: divide squared deviations by count - 1 instead of count.
      epsilon: added to the standard deviation.
      min_std: below it the group is a tie and every advantage is 0. Without it, rounding noise in
        the mean of equal rewards would be blown up to the size of ``epsilon``.
    """

    divide_by_std: bool = True
    unbiased: bool = False
    epsilon: float = 1e-6
    min_std: float = 1e-4


def masked_mean(
    values: Array, mask: Array, axis: int | tuple[int, ...], keepdims: bool = False
) -> Array:
    """Mean over ``axis`` of the entries where ``mask``; 0 where there are none."""
    total = jnp.sum(jnp.where(mask, values, 0.0), axis, keepdims=keepdims)
    return total / jnp.maximum(jnp.sum(mask, axis, keepdims=keepdims), 1)


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
    deviation, std = _spread(values, mask, axis, norm.unbiased)
    scale = std + norm.epsilon if norm.divide_by_std else 1.0
    return jnp.where(std < norm.min_std, 0.0, deviation / scale)


def informative(
    rewards: Float[Array, "*B M N"],
    mask: Bool[Array, "*B M N"] | None = None,
    *,
    min_std: float = GroupNorm.min_std,
) -> Bool[Array, "*B"]:
    """Prompts whose answers' rewards differ: those that DAPO's dynamic sampling keeps.

    The others (all right, all wrong, one answer, none) have a group-normalised advantage of 0 and
    only dilute the mean: ``and`` this into the mask of the loss. arXiv 2503.14476, section 3.2.
    """
    _, std = _spread(rewards, mask, (-2, -1), unbiased=False)
    return std[..., 0, 0] >= min_std


def _spread(
    values: Array, mask: Array | None, axis: int | tuple[int, ...], unbiased: bool
) -> tuple[Array, Array]:
    """Deviations from the mean over ``axis``, 0 where masked, and their standard deviation."""
    values = jnp.asarray(values, jnp.float32)
    mask = jnp.ones(values.shape, bool) if mask is None else mask
    deviation = jnp.where(mask, values - masked_mean(values, mask, axis, keepdims=True), 0.0)
    freedom = jnp.maximum(jnp.sum(mask, axis, keepdims=True) - unbiased, 1)
    return deviation, jnp.sqrt(jnp.sum(deviation**2, axis, keepdims=True) / freedom)
