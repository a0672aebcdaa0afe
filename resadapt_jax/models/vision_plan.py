"""The packed layout of a vision tower's input, as integer tables computed from traced grids."""

from typing import NamedTuple

import flax.struct
import jax
import numpy as np

from resadapt_jax.errors import UserError
from resadapt_jax.models.host_or_device import namespace_of, on_host
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
        overflow: the entries ask for more than ``capacity``. Those that do not fit whole are then
            missing from the tables.
        window_order: merged token at each position of the window order (windows contiguous).
        window_rank: its inverse, the position in the window order of each merged token.
        merge_size: side in patches of the square block that becomes one token.
        window_patches: side in patches of an attention window.
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


def plan_vision(
    grid_thw: Int[Array, "E 3"],
    *,
    capacity: int,
    merge_size: int = 2,
    window_patches: int | None = 8,
) -> VisionPlan:
    """Lays entries of any grids into one sequence of ``capacity`` merged tokens.

    Everything depends on the values of ``grid_thw`` only through integer arithmetic, so one
    compilation serves every grid. Works under ``jax.vmap``. Grids that are a numpy array make
    numpy tables on the host, by the same code.

    Args:
        grid_thw: temporal patches, patch rows and patch columns of each entry, the latter two
            multiples of ``merge_size``; zeros mark an absent entry.
        capacity: static number of merged tokens of the layout.
        merge_size: side in patches of a merged token.
        window_patches: side in patches of an attention window; ``None`` makes no window tables.

    Returns:
        The tables, with ``overflow`` set when the request does not fit.

    Raises:
        UserError: outside jit, if a grid is not legal (`check_grids`).
    """
    check_grids(grid_thw, merge_size)
    plan = _plan if on_host(grid_thw) else _plan_jitted
    return plan(grid_thw, capacity, merge_size, window_patches)


def _plan(
    grid_thw: Int[Array, "E 3"], capacity: int, merge_size: int, window_patches: int | None
) -> VisionPlan:
    xp = namespace_of(grid_thw)
    grid_thw = xp.asarray(grid_thw, xp.int32)
    grid = grid_thw // xp.array([[1, merge_size, merge_size]], xp.int32)
    token_count = xp.prod(grid, axis=1, dtype=xp.int32)
    fits = xp.cumsum(token_count, dtype=xp.int32) <= capacity
    grid = xp.where(fits[:, None], grid, 0)
    tokens = _locate(grid, capacity)
    window_ids = window_order = window_rank = None
    in_block = xp.tile(xp.arange(merge_size**2, dtype=xp.int32), capacity)
    in_row, in_col = xp.divmod(in_block, merge_size)

    def patches(values: Array) -> Array:
        return xp.repeat(values, merge_size**2)

    if window_patches is not None:
        side = window_patches // merge_size
        window_ids = patches(_window_ids(grid, tokens, side))
        window_order, window_rank = _window_permutation(grid, tokens, side)
    return VisionPlan(
        grid_thw=grid_thw,
        patch_entry=patches(tokens.entry),
        patch_time=patches(tokens.time),
        patch_row=xp.where(patches(tokens.valid), patches(tokens.row) * merge_size + in_row, 0),
        patch_col=xp.where(patches(tokens.valid), patches(tokens.col) * merge_size + in_col, 0),
        segment_ids=patches(_segment_ids(grid, tokens)),
        window_ids=window_ids,
        token_entry=tokens.entry,
        token_time=tokens.time,
        token_row=tokens.row,
        token_col=tokens.col,
        token_count=token_count,
        num_tokens=xp.sum(token_count, dtype=xp.int32),
        overflow=~xp.all(fits),
        window_order=window_order,
        window_rank=window_rank,
        merge_size=merge_size,
        window_patches=window_patches,
    )


_plan_jitted = jax.jit(_plan, static_argnums=(1, 2, 3))


def interpolation_taps(
    plan: VisionPlan, side: int
) -> tuple[Int[Array, "P 4"], Float[Array, "P 4"]]:
    """Bilinear taps that stretch a square table of positions over the frame of every patch.

    The table's corners meet the frame's corners: row ``i`` of ``h`` lies at
    ``i · (side - 1) / (h - 1)``, columns alike. Takes one plan; under ``jax.vmap``, a batch.

    Args:
        plan: of one packed sequence.
        side: rows and columns of the table.

    Returns:
        Rows of the flattened table ``[side², D]``, and their weights, which sum to 1, float32.
    """
    xp = namespace_of(plan.grid_thw)
    grid = plan.grid_thw[plan.patch_entry]

    def along(place: Int[Array, " P"], size: Int[Array, " P"]) -> tuple[Array, Array]:
        # In integers, so that no rounding moves a patch that lies on a row of the table.
        span = xp.maximum(size - 1, 1)
        below, rest = xp.divmod(place * (side - 1), span)
        above = rest.astype(xp.float32) / span.astype(xp.float32)
        taps = xp.stack([below, xp.minimum(below + 1, side - 1)], axis=-1)
        return taps, xp.stack([1.0 - above, above], axis=-1)

    rows, row_weights = along(plan.patch_row, grid[:, 1])
    cols, col_weights = along(plan.patch_col, grid[:, 2])
    taps = rows[:, :, None] * side + cols[:, None, :]
    weights = row_weights[:, :, None] * col_weights[:, None, :]
    return taps.reshape(-1, 4), weights.reshape(-1, 4)


def check_grids(grid_thw: Int[Array, "*B E 3"], merge_size: int) -> None:
    """Refuses grids that do not divide into merged tokens; does nothing under a trace.

    Raises:
        UserError: names the first such entry.
    """
    if isinstance(grid_thw, jax.core.Tracer):
        return
    grids = np.asarray(grid_thw).reshape(-1, 3)
    legal = np.all((grids >= 0) & (grids % np.array([[1, merge_size, merge_size]]) == 0), axis=1)
    if not legal.all():
        entry = int(np.argmin(legal))
        _, rows, cols = grids[entry]
        raise UserError(
            f"entry {entry % grid_thw.shape[-2]} has a grid of {rows} x {cols} patches, its sides"
            f" must be multiples of {merge_size}"
        )


def check_fits(plan: VisionPlan) -> None:
    """Raises ``ValueError`` if a concrete plan overflowed; does nothing under a trace."""
    if isinstance(plan.overflow, jax.core.Tracer):
        return
    if np.any(plan.overflow):
        raise ValueError(
            f"the visual entries ask for {plan.num_tokens} tokens, the layout holds"
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
    xp = namespace_of(grid)
    ends = xp.cumsum(xp.prod(grid, axis=1, dtype=xp.int32), dtype=xp.int32)
    token = xp.arange(capacity, dtype=xp.int32)
    entry = xp.sum(ends[None, :] <= token[:, None], axis=1, dtype=xp.int32)
    _, rows, cols = xp.maximum(grid, 1)[xp.minimum(entry, len(grid) - 1)].T
    start = xp.pad(ends, (1, 0))[entry]
    time, within = xp.divmod(token - start, rows * cols)
    row, col = xp.divmod(within, cols)
    valid = token < ends[-1]
    time, row, col = (xp.where(valid, x, 0) for x in (time, row, col))
    return _Tokens(valid=valid, entry=xp.where(valid, entry, -1), time=time, row=row, col=col)


def _segment_ids(grid: Int[Array, "E 3"], tokens: _Tokens) -> Int[Array, " U"]:
    """Temporal patch of every token, numbered from 1; 0 for padding."""
    segment = _before(grid[:, 0])[tokens.entry] + tokens.time
    return namespace_of(grid).where(tokens.valid, segment + 1, 0)


def _window_ids(grid: Int[Array, "E 3"], tokens: _Tokens, side: int) -> Int[Array, " U"]:
    """Window of every token, numbered from 1; 0 for padding."""
    times, rows, cols = grid.T
    windows = -(-rows // side) * -(-cols // side)
    windows_across = -(-cols // side)[tokens.entry]
    window = tokens.row // side * windows_across + tokens.col // side
    window += _before(times * windows)[tokens.entry] + tokens.time * windows[tokens.entry]
    return namespace_of(grid).where(tokens.valid, window + 1, 0)


def _window_permutation(
    grid: Int[Array, "E 3"], tokens: _Tokens, side: int
) -> tuple[Int[Array, " U"], Int[Array, " U"]]:
    """The token at each position of the window order, and the position of each token.

    Frames stay in place: inside one, windows are read in raster order, each in raster order.
    """
    xp = namespace_of(grid)
    row, col = tokens.row, tokens.col
    _, rows, cols = grid[tokens.entry].T
    token = xp.arange(len(row), dtype=xp.int32)
    in_frame = row * cols + col

    top, left = row // side * side, col // side * side
    height, width = xp.minimum(side, rows - top), xp.minimum(side, cols - left)
    rank = top * cols + left * height + (row - top) * width + (col - left)

    top = in_frame // xp.maximum(side * cols, 1) * side
    height = xp.clip(rows - top, 1, side)
    left = (in_frame - top * cols) // (side * height) * side
    width = xp.clip(cols - left, 1, side)
    down, right = xp.divmod(in_frame - top * cols - left * height, width)
    order = (top + down) * cols + left + right

    def place(index: Array) -> Array:
        return xp.where(tokens.valid, token - in_frame + index, token)

    return place(order), place(rank)


def _before(counts: Int[Array, " E"]) -> Int[Array, " E"]:
    """Exclusive cumulative sum."""
    xp = namespace_of(counts)
    return xp.cumsum(counts, dtype=xp.int32) - counts
