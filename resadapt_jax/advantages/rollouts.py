"""A group's arrays with the padding taken out, and the averages over them."""

import jax.numpy as jnp
from flax import struct

from resadapt_jax.advantages.records import AdvantageConfig
from resadapt_jax.typing import Array, Bool, Float


@struct.dataclass
class Rollouts:
    """One prompt's answers to M allocations; entries outside ``mask`` are 0 (float32)."""

    accuracy: Float[Array, "*B M N"]
    rewards: Float[Array, "*B M N"]
    cost: Float[Array, "*B M"]
    mask: Bool[Array, "*B M N"]


def masked_mean(values: Array, mask: Array, axis: int, keepdims: bool = False) -> Array:
    """Mean over ``axis`` of the entries where ``mask``; 0 where there are none."""
    total = jnp.sum(jnp.where(mask, values, 0.0), axis, keepdims=keepdims)
    return total / jnp.maximum(jnp.sum(mask, axis, keepdims=keepdims), 1)


def proxy_cost(
    scales: Float[Array, "*B M K"], unit_mask: Bool[Array, "*B K"], s_min: float, s_max: float
) -> Float[Array, "*B M"]:
    """c = (mean_t s_t - s_min) / (s_max - s_min), ResAdapt eq. (13), over valid units.

    Clipped to [0, 1] as in the released code: nothing changes for scales the policy can draw.
    """
    scales = jnp.asarray(scales, jnp.float32)
    mask = jnp.broadcast_to(unit_mask[..., None, :], scales.shape)
    mean_scale = masked_mean(scales, mask, axis=-1)
    return jnp.clip((mean_scale - s_min) / (s_max - s_min), 0.0, 1.0)


def gather(
    accuracy: Float[Array, "*B M N"],
    scales: Float[Array, "*B M K"],
    unit_mask: Bool[Array, "*B K"],
    config: AdvantageConfig,
    rewards: Float[Array, "*B M N"] | None,
    mask: Bool[Array, "*B M N"] | None,
) -> Rollouts:
    """Checks the shapes, fills the defaults and zeroes what is masked."""
    accuracy = jnp.asarray(accuracy, jnp.float32)
    rewards = accuracy if rewards is None else jnp.asarray(rewards, jnp.float32)
    mask = jnp.ones(accuracy.shape, bool) if mask is None else mask
    expected = (*accuracy.shape[:-2], accuracy.shape[-2], unit_mask.shape[-1])
    if scales.shape != expected or unit_mask.shape[:-1] != accuracy.shape[:-2]:
        raise ValueError(
            f"accuracy {accuracy.shape}, scales {scales.shape} and unit_mask {unit_mask.shape} "
            "are not [*B, M, N], [*B, M, K] and [*B, K]"
        )
    if rewards.shape != accuracy.shape or mask.shape != accuracy.shape:
        raise ValueError(
            f"rewards {rewards.shape} and mask {mask.shape} must have accuracy's shape "
            f"{accuracy.shape}"
        )
    cost = proxy_cost(scales, unit_mask, config.s_min, config.s_max)
    return Rollouts(
        accuracy=jnp.where(mask, accuracy, 0.0),
        rewards=jnp.where(mask, rewards, 0.0),
        cost=jnp.where(mask.any(-1), cost, 0.0),
        mask=mask,
    )
