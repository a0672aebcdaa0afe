"""A group's arrays with the padding zeroed, and the averages over them."""

import jax.numpy as jnp
from flax import struct

from resadapt_jax.advantages.cost import proxy_cost
from resadapt_jax.advantages.records import AdvantageConfig
from resadapt_jax.typing import Array, Bool, Float


@struct.dataclass
class Group:
    """One prompt's answers to M allocations; entries outside ``mask`` are 0 (float32)."""

    accuracy: Float[Array, "*B M N"]
    rewards: Float[Array, "*B M N"]
    cost: Float[Array, "*B M"]
    mask: Bool[Array, "*B M N"]


def gather(
    accuracy: Float[Array, "*B M N"],
    scales: Float[Array, "*B M K"],
    unit_mask: Bool[Array, "*B K"],
    config: AdvantageConfig,
    rewards: Float[Array, "*B M N"] | None,
    mask: Bool[Array, "*B M N"] | None,
) -> Group:
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
    return Group(
        accuracy=jnp.where(mask, accuracy, 0.0),
        rewards=jnp.where(mask, rewards, 0.0),
        cost=jnp.where(mask.any(-1), cost, 0.0),
        mask=mask,
    )
