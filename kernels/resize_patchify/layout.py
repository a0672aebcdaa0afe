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
        sources: heights and widths of the units' own part of the canvas, its top left corner; at
            least 1 and at most the canvas's, even if absent. None: the whole canvas.
        block_unit: unit of each block, -1 for padding.
        block_row, block_col: its place among the unit's blocks, 0 for padding.
    """

    heights: Int[Array, "B K"]
    widths: Int[Array, "B K"]
    sources: tuple[Int[Array, "B K"], Int[Array, "B K"]] | None
    block_unit: Int[Array, "B N"]
    block_row: Int[Array, "B N"]
    block_col: Int[Array, "B N"]

    def source_sizes(self, canvas: tuple[int, int]) -> tuple[Array, Array]:
        """Heights and widths of the units' sources: where there are none, the canvas's."""
        if self.sources is not None:
            return self.sources
        height, width = canvas
        return jnp.full_like(self.heights, height), jnp.full_like(self.heights, width)


def canvas_of(frames_shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of frames whose channels are last, or first if the last axis is not 3."""
    height, width = frames_shape[-3:-1] if frames_shape[-1] == 3 else frames_shape[-2:]
    return height, width


def lay_out(
    sizes: tuple[Int[Array, "B K"], Int[Array, "B K"]],
    sources: tuple[Int[Array, "B K"], Int[Array, "B K"]] | None,
    canvas: tuple[int, int],
    spec: PatchSpec,
) -> tuple[Layout, Bool[Array, "B"]]:
    """The layout, and which clips overflow: a unit has no legal size, or all need too many blocks.

    Units are placed whole while they fit, and left out from the first that does not on. One whose
    size is negative, no multiple of the block or beyond the spec's bounds is left out alone, as is
    one that is present and whose source is empty or beyond the canvas.

    Args:
        sizes: heights and widths of the units.
        sources: heights and widths of their frames, None if all are as large as the canvas.
        canvas: height and width that frames are stored in.
    """
    most = spec.max_height, spec.max_width
    (heights, widths), legal = _legal(sizes, 0, most, spec.block_size)
    if sources is not None:
        (source_heights, source_widths), legal_sources = _legal(sources, 1, canvas, 1)
        legal &= legal_sources | (heights == 0) | (widths == 0)
        sources = jnp.clip(source_heights, 1, canvas[0]), jnp.clip(source_widths, 1, canvas[1])
    rows = jnp.where(legal, heights // spec.block_size, 0)
    cols = jnp.where(legal, widths // spec.block_size, 0)
    fits = legal & (jnp.cumsum(rows * cols, axis=1) <= spec.capacity)
    rows, cols = jnp.where(fits, rows, 0), jnp.where(fits, cols, 0)
    unit, row, col = jax.vmap(lambda r, c: _blocks(r, c, spec.capacity))(rows, cols)
    layout = Layout(
        heights=jnp.where(fits, heights, 0),
        widths=jnp.where(fits, widths, 0),
        sources=sources,
        block_unit=unit,
        block_row=row,
        block_col=col,
    )
    return layout, ~fits.all(axis=1)


def _legal(
    sides: tuple[Array, Array], least: int, most: tuple[int, int], step: int
) -> tuple[list[Array], Bool[Array, "B K"]]:
    """Heights and widths as int32, and where both are legal."""
    narrow = [side.astype(jnp.int32) for side in sides]
    legal = jnp.bool_(True)
    for side, kept, bound in zip(sides, narrow, most, strict=True):
        same = kept.astype(side.dtype) == side  # 64 bits may hold more
        legal &= same & (kept >= least) & (kept <= bound) & (kept % step == 0)
    return narrow, legal


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
