"""From sizes to grids of patches and to the tokens that they cost."""

import jax.numpy as jnp

from resadapt_jax.operators.native_sizes import NativeSizes
from resadapt_jax.operators.sizes import SizeLimits
from resadapt_jax.typing import Array, Bool, Int


def grids(
    heights: Int[Array, "*B K"],
    widths: Int[Array, "*B K"],
    unit_mask: Bool[Array, "*B K"],
    limits: SizeLimits,
) -> Int[Array, "*B K 3"]:
    """`grid_thw` in patches, one (1, h, w) entry per unit; an absent unit is (0, 0, 0)."""
    rows, cols = heights // limits.patch_size, widths // limits.patch_size
    grid = jnp.stack([jnp.ones_like(rows), rows, cols], axis=-1)
    return jnp.where(unit_mask[..., None], grid, 0)


def native_grids(unit_mask: Bool[Array, "*B K"], native: NativeSizes) -> Int[Array, "*B K 3"]:
    """`grids` of units at scale 1."""
    sides = (jnp.broadcast_to(side, unit_mask.shape) for side in native.at_scale_one())
    return grids(*sides, unit_mask, native.limits)


def grid_tokens(grid_thw: Int[Array, "*B K 3"], merge_size: int) -> Int[Array, "*B K"]:
    """t·h·w / merge²: merged tokens of each grid in patches."""
    return jnp.prod(grid_thw, axis=-1) // merge_size**2


def token_counts(
    heights: Int[Array, "*B K"],
    widths: Int[Array, "*B K"],
    unit_mask: Bool[Array, "*B K"],
    limits: SizeLimits,
) -> Int[Array, "*B K"]:
    """n_t = (h/f)(w/f): tokens each unit puts before the language model; 0 for absent units."""
    tokens = (heights // limits.factor) * (widths // limits.factor)
    return jnp.where(unit_mask, tokens, 0)
