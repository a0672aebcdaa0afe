"""What an allocation costs before any frame is resized, in [0, 1]."""

import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float


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
