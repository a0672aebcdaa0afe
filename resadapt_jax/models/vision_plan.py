"""The packed layout of a vision tower's input, as integer tables computed from traced grids."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float, Int


@flax.struct.dataclass
class VisionPlan:
    """Where every patch and merged token of a packed sequence comes from.

    ``U = capacity`` merged tokens, ``P = U · merge_size²`` patches. Rows follow the order of HF's
    processors: entry, temporal patch, block row, block column, then the patches of one block.
    Row and column count patches in ``patch_*`` and merged tokens in ``token_*``. Under ``jax.vmap``
    every table has a leading batch axis.

    Attributes:
        grid_thw: temporal patches, patch rows, patch columns of each entry; zeros mark none.
        patch_entry: entry of the patch, -1 for padding.
        patch_time: temporal patch inside the entry.
        patch_row: row inside the frame, in patches.
        patch_col: column inside the frame, in patches.
        segment_ids: 1 + running temporal patch over all entries, 0 for padding.
        window_ids: 1 + running attention window over all entries, 0 for padding. This and the
            window tables below are ``None`` for a tower without windows.
        token_entry: entry of the merged token, -1 for padding.
        token_time: temporal patch inside the entry.
        token_row: row inside the frame, in merged tokens.
        token_col: column inside the frame, in merged tokens.
        token_count: merged tokens each entry asks for.
        num_tokens: their sum.
        overflow: the entries ask for more than ``capacity``, or one temporal patch for more than
            ``max_frame_tokens``. Entries that do not fit whole are then missing from the tables.
        window_order: merged token at each position of the window order (windows contiguous).
        window_rank: its inverse, the position in the window order of each merged token.
        merge_size: side in patches of the square block that becomes one token.
        window_patches: side in patches of an attention window.
        max_frame_tokens: bound on the merged tokens of one temporal patch.
    """

    grid_thw: Int[Array, "*B E 3"]
    patch_entry: Int[Array, "*B P"]
    patch_time: Int[Array, "*B P"]
    patch_row: Int[Array, "*B P"]
    patch_col: Int[Array, "*B P"]
    segment_ids: Int[Array, "*B P"]
    window_ids: Int[Array, "*B P"] | None
    token_entry: Int[Array, "*B U"]
    token_time: Int[Array, "*B U"]
    token_row: Int[Array, "*B U"]
    token_col: Int[Array, "*B U"]
    token_count: Int[Array, "*B E"]
    num_tokens: Int[Array, "*B"]
    overflow: Bool[Array, "*B"]
    window_order: Int[Array, "*B U"] | None
    window_rank: Int[Array, "*B U"] | None
    merge_size: int = flax.struct.field(pytree_node=False)
    window_patches: int | None = flax.struct.field(pytree_node=False)
    max_frame_tokens: int = flax.struct.field(pytree_node=False)


@jax.jit(static_argnames=("capacity", "merge_size", "window_patches", "max_frame_tokens"))
def plan_vision(
    grid_thw: Int[Array, "E 3"],
    *,
    capacity: int,
    merge_size: int = 2,
    window_patches: int | None = 8,
    max_frame_tokens: int | None = None,
) -> VisionPlan:
    """Lays entries of any grids into one sequence of ``capacity`` merged tokens.

    Everything depends on the values of ``grid_thw`` only through integer arithmetic, so one
    compilation serves every grid. Works under ``jax.vmap``.

    Args:
        grid_thw: temporal patches, patch rows and patch columns of each entry, the latter two
            multiples of ``merge_size``; zeros mark an absent entry.
        capacity: static number of merged tokens of the layout.
        merge_size: side in patches of a merged token.
        window_patches: side in patches of an attention window; ``None`` makes no window tables.
        max_frame_tokens: static bound on the merged tokens of one temporal patch; a tight bound
            makes the attention of long sequences cheaper. ``None`` bounds it by ``capacity``.

    Returns:
        The tables, with ``overflow`` set when the request does not fit.
    """
    grid_thw = jnp.asarray(grid_thw, jnp.int32)
    bound = min(max_frame_tokens or capacity, capacity)
    grid = grid_thw // jnp.array([1, merge_size, merge_size])[None, :]
    token_count = jnp.prod(grid, axis=1)
    fits = (grid[:, 1] * grid[:, 2] <= bound) & (jnp.cumsum(token_count) <= capacity)
    grid = jnp.where(fits[:, None], grid, 0)
    tokens = _locate(grid, capacity)
    window_ids = window_order = window_rank = None
    in_block = jnp.tile(jnp.arange(merge_size**2, dtype=jnp.int32), capacity)
    in_row, in_col = jnp.divmod(in_block, merge_size)

    def patches(values: Array) -> Array:
        return jnp.repeat(values, merge_size**2)

    if window_patches is not None:
        side = window_patches // merge_size
        window_ids = patches(_window_ids(grid, tokens, side))
        window_order, window_rank = _window_permutation(grid, tokens, side)
    return VisionPlan(
        grid_thw=grid_thw,
        patch_entry=patches(tokens.entry),
        patch_time=patches(tokens.time),
        patch_row=jnp.where(patches(tokens.valid), patches(tokens.row) * merge_size + in_row, 0),
        patch_col=jnp.where(patches(tokens.valid), patches(tokens.col) * merge_size + in_col, 0),
        segment_ids=patches(_segment_ids(grid, tokens)),
        window_ids=window_ids,
        token_entry=tokens.entry,
        token_time=tokens.time,
        token_row=tokens.row,
        token_col=tokens.col,
        token_count=token_count,
        num_tokens=jnp.sum(token_count),
        overflow=~jnp.all(fits),
        window_order=window_order,
        window_rank=window_rank,
        merge_size=merge_size,
        window_patches=window_patches,
        max_frame_tokens=bound,
    )


def interpolation_taps(
    plan: VisionPlan, side: int
) -> tuple[Int[Array, "P 4"], Float[Array, "P 4"]]:
    """Bilinear taps that stretch a square table of positions over the frame of every patch.

    The table's corners meet the frame's corners: row ``i`` of ``h`` lies at
    ``i · (side - 1) / (h - 1)``, columns alike. Takes one plan; under ``jax.vmap``, a batch.

    Args:
        plan: its tables may be numpy arrays.
        side: rows and columns of the table.

    Returns:
        Rows of the flattened table ``[side², D]``, and their weights, which sum to 1, float32.
    """
    grid = jnp.asarray(plan.grid_thw)[jnp.asarray(plan.patch_entry)]

    def along(place: Int[Array, " P"], size: Int[Array, " P"]) -> tuple[Array, Array]:
        # In integers, so that no rounding moves a patch that lies on a row of the table.
        span = jnp.maximum(size - 1, 1)
        below, rest = jnp.divmod(jnp.asarray(place) * (side - 1), span)
        above = rest.astype(jnp.float32) / span.astype(jnp.float32)
        taps = jnp.stack([below, jnp.minimum(below + 1, side - 1)], axis=-1)
        return taps, jnp.stack([1.0 - above, above], axis=-1)

    rows, row_weights = along(plan.patch_row, grid[:, 1])
    cols, col_weights = along(plan.patch_col, grid[:, 2])
    taps = rows[:, :, None] * side + cols[:, None, :]
    weights = row_weights[:, :, None] * col_weights[:, None, :]
    return taps.reshape(-1, 4), weights.reshape(-1, 4)


def check_fits(plan: VisionPlan) -> None:
    """Raises ``ValueError`` if a concrete plan overflowed; does nothing under a trace."""
    if isinstance(plan.overflow, jax.core.Tracer):
        return
    if jnp.any(plan.overflow):
        raise ValueError(
            f"the visual entries ask for {plan.num_tokens} tokens (at most"
            f" {plan.max_frame_tokens} in one frame), the layout holds"
            f" {plan.token_entry.shape[-1]}"
        )


class _Tokens(NamedTuple):
    """Where each merged token of the layout lies; padding has entry -1 and zeros."""

    valid: Bool[Array, " U"]
    entry: Int[Array, " U"]
    time: Int[Array, " U"]
    row: Int[Array, " U"]
    col: Int[Array, " U"]


def _locate(grid: Int[Array, "E 3"], capacity: int) -> _Tokens:
    """Counts out the tokens of merged grids in the order entry, time, row, column."""
    ends = jnp.cumsum(jnp.prod(grid, axis=1))
    token = jnp.arange(capacity, dtype=jnp.int32)
    entry = jnp.searchsorted(ends, token, side="right", method="compare_all")
    _, rows, cols = jnp.maximum(grid, 1)[jnp.minimum(entry, len(grid) - 1)].T
    start = jnp.append(0, ends)[entry]
    time, within = jnp.divmod(token - start, rows * cols)
    row, col = jnp.divmod(within, cols)
    valid = token < ends[-1]
    entry = jnp.where(valid, entry, -1).astype(jnp.int32)
    time, row, col = (jnp.where(valid, x, 0) for x in (time, row, col))
    return _Tokens(valid=valid, entry=entry, time=time, row=row, col=col)


def _segment_ids(grid: Int[Array, "E 3"], tokens: _Tokens) -> Int[Array, " U"]:
    """Temporal patch of every token, numbered from 1; 0 for padding."""
    segment = _before(grid[:, 0])[tokens.entry] + tokens.time
    return jnp.where(tokens.valid, segment + 1, 0)


def _window_ids(grid: Int[Array, "E 3"], tokens: _Tokens, side: int) -> Int[Array, " U"]:
    """Window of every token, numbered from 1; 0 for padding."""
    times, rows, cols = grid.T
    windows = -(-rows // side) * -(-cols // side)
    windows_across = -(-cols // side)[tokens.entry]
    window = tokens.row // side * windows_across + tokens.col // side
    window += _before(times * windows)[tokens.entry] + tokens.time * windows[tokens.entry]
    return jnp.where(tokens.valid, window + 1, 0)


def _window_permutation(
    grid: Int[Array, "E 3"], tokens: _Tokens, side: int
) -> tuple[Int[Array, " U"], Int[Array, " U"]]:
    """The token at each position of the window order, and the position of each token.

    Frames stay in place: inside one, windows are read in raster order, each in raster order.
    """
    row, col = tokens.row, tokens.col
    _, rows, cols = grid[tokens.entry].T
    token = jnp.arange(len(row), dtype=jnp.int32)
    in_frame = row * cols + col

    top, left = row // side * side, col // side * side
    height, width = jnp.minimum(side, rows - top), jnp.minimum(side, cols - left)
    rank = top * cols + left * height + (row - top) * width + (col - left)

    top = in_frame // jnp.maximum(side * cols, 1) * side
    height = jnp.clip(rows - top, 1, side)
    left = (in_frame - top * cols) // (side * height) * side
    width = jnp.clip(cols - left, 1, side)
    down, right = jnp.divmod(in_frame - top * cols - left * height, width)
    order = (top + down) * cols + left + right

    def place(index: Array) -> Array:
        return jnp.where(tokens.valid, token - in_frame + index, token)

    return place(order), place(rank)


def _before(counts: Int[Array, " E"]) -> Int[Array, " E"]:
    """Exclusive cumulative sum."""
    return jnp.cumsum(counts) - counts
