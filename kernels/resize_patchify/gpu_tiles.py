"""What the two GPU kernels share: their table of blocks, their tiles and their limits.

Both run one program per merge block and temporal slot. A program finds its window of the frame,
walks over it in tiles of `TILE_ROWS` x `TILE_COLS` pixels, makes the weights of each tile in
registers, multiplies on tensor cores, and stores its part of the block's patches:

    A_c = Σ_rows W_y · X_c / Σ W_y        [side, TILE_COLS], once per column of tiles
    O_c = Σ_cols A_c · W_xᵀ / Σ W_x       [side, side]

Pixels of 8 bits are exact in half precision. At precision "high" whatever is not is the sum of
two halves, so that about 22 bits of it count.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

from kernels.resize_patchify.layout import Layout
from kernels.resize_patchify.spec import PatchSpec

TILE_ROWS = 32
TILE_COLS = 64
ALIGNMENT = 16
"""Windows begin at a multiple of this column, so that a thread loads 16 bytes at once."""

_MAX_SIDE = 64


def padded_side(spec: PatchSpec) -> int:
    """The side of a merge block as a power of two, at least the 16 of a matrix product."""
    return max(16, 1 << (spec.block_size - 1).bit_length())


def too_large(spec: PatchSpec) -> str | None:
    """The limit of both kernels: a block's pixels stay in registers."""
    if spec.block_size <= _MAX_SIDE:
        return None
    return f"serves merge blocks of at most {_MAX_SIDE} pixels a side, got {spec.block_size}"


def block_table(layout: Layout) -> Int[Array, "B*N 5"]:
    """Unit, row and column of every block, height and width of its unit; unit -1 for padding."""
    unit = jnp.maximum(layout.block_unit, 0)
    heights, widths = (
        jnp.take_along_axis(sizes, unit, axis=1, mode="clip")
        for sizes in (layout.heights, layout.widths)
    )
    columns = layout.block_unit, layout.block_row, layout.block_col, heights, widths
    return jnp.stack(columns, axis=-1).reshape(-1, len(columns))
