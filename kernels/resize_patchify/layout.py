"""Where every merge block of the packed output comes from: tables computed from traced sizes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from kernels.resize_patchify.spec import PatchSpec


class Layout(NamedTuple):
    """Sizes of a batch of clips and the merge blocks that they fill, in the output's order.

    That order is HF's: unit by unit, its blocks row by row. A block's patches are row by row too.

    Attributes:
        heights, widths: pixels of each unit, 0 for one that is absent or did not fit.
        block_unit: unit of each block, -1 for padding.
        block_row, block_col: its place among the unit's blocks, 0 for padding.
    """

    heights: Int[Array, "B K"]
    widths: Int[Array, "B K"]
    block_unit: Int[Array, "B N"]
    block_row: Int[Array, "B N"]
    block_col: Int[Array, "B N"]


def lay_out(
    heights: Int[Array, "B K"], widths: Int[Array, "B K"], spec: PatchSpec
) -> tuple[Layout, Bool[Array, "B"]]:
    """The layout, and which clips overflow: a unit has no legal size, or all need too many blocks.

    Units are placed whole while they fit, and left out from the first that does not on. One whose
    size is negative, no multiple of the block or beyond the spec's bounds is left out alone.
    """
    (heights, legal_height), (widths, legal_width) = (
        _legal(jnp.asarray(sizes), most, spec.block_size)
        for sizes, most in ((heights, spec.max_height), (widths, spec.max_width))
    )
    legal = legal_height & legal_width
    rows = jnp.where(legal, heights // spec.block_size, 0)
    cols = jnp.where(legal, widths // spec.block_size, 0)
    fits = legal & (jnp.cumsum(rows * cols, axis=1) <= spec.capacity)
    rows, cols = jnp.where(fits, rows, 0), jnp.where(fits, cols, 0)
    unit, row, col = jax.vmap(lambda r, c: _blocks(r, c, spec.capacity))(rows, cols)
    heights, widths = jnp.where(fits, heights, 0), jnp.where(fits, widths, 0)
    return Layout(heights, widths, unit, row, col), ~fits.all(axis=1)


def _legal(sizes: Int[Array, "B K"], most: int, block: int) -> tuple[Array, Array]:
    """Sizes as int32, and which of them are legal."""
    narrow = sizes.astype(jnp.int32)
    kept = narrow.astype(sizes.dtype) == sizes  # 64 bits may hold more
    return narrow, kept & (narrow >= 0) & (narrow <= most) & (narrow % block == 0)


def _blocks(rows: Int[Array, "K"], cols: Int[Array, "K"], capacity: int) -> tuple[Array, ...]:
    """Unit, row and column of every block of one clip."""
    ends = jnp.cumsum(rows * cols)
    index = jnp.arange(capacity, dtype=jnp.int32)
    unit = jnp.searchsorted(ends, index, side="right").astype(jnp.int32)
    valid = index < ends[-1]
    unit = jnp.where(valid, unit, 0)
    start = ends - rows * cols
    row, col = jnp.divmod(index - start[unit], jnp.maximum(cols[unit], 1))
    return jnp.where(valid, unit, -1), jnp.where(valid, row, 0), jnp.where(valid, col, 0)
