"""What the two GPU kernels share: their table of blocks, their tiles and their limits.

Both run one program per merge block and temporal slot. A program finds its window of the frame,
walks over it in tiles (`tile`), makes the weights of each tile in
registers, multiplies on tensor cores, and stores its part of the block's patches:

    A_c = Σ_rows W_y · X_c / Σ W_y        [side, columns of a tile]
    O_c = Σ_cols A_c · W_xᵀ / Σ W_x       [side, side]

Pixels of 8 bits are exact in half precision. At precision "high" whatever is not is the sum of
two halves, so that about 22 bits of it count.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

from kernels.resize_patchify.layout import Layout
from kernels.resize_patchify.spec import PatchSpec

NUM_WARPS = 8
NUM_STAGES = 2
ALIGNMENT = 16
"""Windows begin at a multiple of this column, so that a thread loads 16 bytes at once."""

_MAX_SIDE = 64


def tile(spec: PatchSpec) -> tuple[int, int]:
    """Rows and columns of input pixels at once: the largest for which no register spills."""
    return (32, 32) if spec.precision == "high" else (32, 64)


def padded_side(spec: PatchSpec) -> int:
    """The side of a merge block as a power of two, at least the 16 of a matrix product."""
    return max(16, 1 << (spec.block_size - 1).bit_length())


def too_large(spec: PatchSpec) -> str | None:
    """The limit of both kernels: a block's pixels stay in registers."""
    if spec.block_size <= _MAX_SIDE:
        return None
    return f"serves merge blocks of at most {_MAX_SIDE} pixels a side, got {spec.block_size}"


def splits_pixels(dtype: jnp.dtype, spec: PatchSpec) -> bool:
    """Whether pixels of this dtype, too, are two halves each."""
    whole = dtype == jnp.uint8 or jnp.finfo(dtype).nmant <= jnp.finfo(jnp.float16).nmant
    return spec.precision == "high" and not whole


def block_table(layout: Layout) -> Int[Array, "B*N _"]:
    """Unit, row and column of every block, height and width of its unit; unit -1 for padding.

    Two more columns are the height and width of its source, if the layout has sources: without
    them the compiler knows the size of the input, and that all of it counts.
    """
    unit = jnp.maximum(layout.block_unit, 0)
    sizes = layout.heights, layout.widths, *(layout.sources or ())
    sizes = (jnp.take_along_axis(size, unit, axis=1, mode="clip") for size in sizes)
    columns = layout.block_unit, layout.block_row, layout.block_col, *sizes
    return jnp.stack(columns, axis=-1).reshape(-1, len(columns))
