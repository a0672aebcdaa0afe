"""The packed layout of a vision tower's input, as integer tables computed from traced grids."""

import flax.struct
import jax
import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Int


@flax.struct.dataclass
class VisionPlan:
    """Where every patch and merged token of a packed sequence comes from.

    ``U = capacity`` merged tokens, ``P = U · merge_size²`` patches. Rows follow the order of HF's
    processors: entry, temporal patch, block row, block column, then the patches of one block.
    Row and column count patches in ``patch_*`` and merged tokens in ``token_*``.

    Attributes:
        grid_thw: temporal patches, patch rows, patch columns of each entry; zeros mark none.
        patch_entry: entry of the patch, -1 for padding.
        patch_time: temporal patch inside the entry.
        patch_row: row inside the frame, in patches.
        patch_col: column inside the frame, in patches.
        segment_ids: 1 + running temporal patch over all entries, 0 for padding.
        window_ids: 1 + running attention window over all entries, 0 for padding.
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

    grid_thw: Int[Array, "E 3"]
    patch_entry: Int[Array, " P"]
    patch_time: Int[Array, " P"]
    patch_row: Int[Array, " P"]
    patch_col: Int[Array, " P"]
    segment_ids: Int[Array, " P"]
    window_ids: Int[Array, " P"]
    token_entry: Int[Array, " U"]
    token_time: Int[Array, " U"]
    token_row: Int[Array, " U"]
    token_col: Int[Array, " U"]
    token_count: Int[Array, " E"]
    num_tokens: Int[Array, ""]
    overflow: Bool[Array, ""]
    window_order: Int[Array, " U"]
    window_rank: Int[Array, " U"]
    merge_size: int = flax.struct.field(pytree_node=False)
    window_patches: int = flax.struct.field(pytree_node=False)
    max_frame_tokens: int = flax.struct.field(pytree_node=False)


@jax.jit(static_argnames=("capacity", "merge_size", "window_patches", "max_frame_tokens"))
def plan_vision(
    grid_thw: Int[Array, "E 3"],
    *,
    capacity: int,
    merge_size: int = 2,
    window_patches: int = 8,
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
        window_patches: side in patches of an attention window.
        max_frame_tokens: static bound on the merged tokens of one temporal patch; a tight bound
            makes the attention of long sequences cheaper. ``None`` bounds it by ``capacity``.

    Returns:
        The tables, with ``overflow`` set when the request does not fit.
    """
    grid_thw = jnp.asarray(grid_thw, jnp.int32)
    max_frame_tokens = min(max_frame_tokens or capacity, capacity)
    times = grid_thw[:, 0]
    rows, cols = grid_thw[:, 1] // merge_size, grid_thw[:, 2] // merge_size
    token_count = times * rows * cols
    fits = (rows * cols <= max_frame_tokens) & (jnp.cumsum(token_count) <= capacity)
    token_count_placed = jnp.where(fits, token_count, 0)
    side = window_patches // merge_size
    windows_per_frame = -(-rows // side) * -(-cols // side)

    ends = jnp.cumsum(token_count_placed)
    token = jnp.arange(capacity, dtype=jnp.int32)
    valid = token < ends[-1]
    entry = jnp.minimum(
        jnp.searchsorted(ends, token, side="right", method="compare_all"), len(ends) - 1
    )
    start = (ends - token_count_placed)[entry]
    frame_rows, frame_cols = rows[entry], cols[entry]
    frame_tokens = jnp.maximum(frame_rows * frame_cols, 1)
    time, within = jnp.divmod(token - start, frame_tokens)
    row, col = jnp.divmod(within, jnp.maximum(frame_cols, 1))
    window = (row // side) * -(-frame_cols // side) + col // side
    segment = _before(jnp.where(fits, times, 0))[entry] + time
    window_id = _before(jnp.where(fits, times * windows_per_frame, 0))[entry]
    window_id += time * windows_per_frame[entry] + window

    frame_start = start + time * frame_tokens
    rank = frame_start + _rank_in_windows(row, col, frame_rows, frame_cols, side)
    order = frame_start + _token_of_rank(within, frame_rows, frame_cols, side)

    def tokens(values: Array, padding: int) -> Array:
        return jnp.where(valid, values, padding).astype(jnp.int32)

    def patches(values: Array) -> Array:
        return jnp.repeat(values, merge_size**2)

    in_block = jnp.tile(jnp.arange(merge_size**2, dtype=jnp.int32), capacity)
    patch_valid = patches(valid)
    patch_row = patches(row) * merge_size + in_block // merge_size
    patch_col = patches(col) * merge_size + in_block % merge_size
    return VisionPlan(
        grid_thw=grid_thw,
        patch_entry=patches(tokens(entry, -1)),
        patch_time=patches(tokens(time, 0)),
        patch_row=jnp.where(patch_valid, patch_row, 0),
        patch_col=jnp.where(patch_valid, patch_col, 0),
        segment_ids=patches(tokens(segment + 1, 0)),
        window_ids=patches(tokens(window_id + 1, 0)),
        token_entry=tokens(entry, -1),
        token_time=tokens(time, 0),
        token_row=tokens(row, 0),
        token_col=tokens(col, 0),
        token_count=token_count,
        num_tokens=jnp.sum(token_count),
        overflow=~jnp.all(fits),
        window_order=jnp.where(valid, order, token),
        window_rank=jnp.where(valid, rank, token),
        merge_size=merge_size,
        window_patches=window_patches,
        max_frame_tokens=max_frame_tokens,
    )


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


def _before(counts: Int[Array, " E"]) -> Int[Array, " E"]:
    """Exclusive cumulative sum."""
    return jnp.cumsum(counts) - counts


def _rank_in_windows(row: Array, col: Array, rows: Array, cols: Array, side: int) -> Array:
    """Position of (row, col) when a frame is read window by window, each in raster order."""
    top, left = row // side * side, col // side * side
    height, width = jnp.minimum(side, rows - top), jnp.minimum(side, cols - left)
    return top * cols + left * height + (row - top) * width + (col - left)


def _token_of_rank(rank: Array, rows: Array, cols: Array, side: int) -> Array:
    """Inverse of `_rank_in_windows`, as a raster index into the frame."""
    top = rank // jnp.maximum(side * cols, 1) * side
    height = jnp.clip(rows - top, 1, side)
    in_band = rank - top * cols
    left = in_band // (side * height) * side
    width = jnp.clip(cols - left, 1, side)
    in_window = in_band - left * height
    return (top + in_window // width) * cols + left + in_window % width
