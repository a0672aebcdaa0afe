"""Expands a compact prompt, one placeholder per visual entry, into ids, positions and gathers."""

import flax.struct
import jax
import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float, Int


@flax.struct.dataclass
class PromptLayout:
    """A right-padded prompt of static length ``T``, or a batch of them made by ``jax.vmap``.

    Attributes:
        token_ids: text ids, with the entry's placeholder id at every visual position; 0 padding.
        visual_index: row of the packed merged tokens shown at a position, -1 for text, padding.
        position_ids: temporal, row and column position (mRoPE); 0 for padding.
        mask: valid positions.
        length: positions the prompt needs.
        next_position: position, on all three axes, of the first generated token.
        overflow: the prompt needs more than ``T`` positions.
    """

    token_ids: Int[Array, "*B T"]
    visual_index: Int[Array, "*B T"]
    position_ids: Int[Array, "*B 3 T"]
    mask: Bool[Array, "*B T"]
    length: Int[Array, "*B"]
    next_position: Int[Array, "*B"]
    overflow: Bool[Array, "*B"]


@jax.jit(static_argnames=("capacity", "merge_size", "tokens_per_second"))
def expand_prompt(
    compact_ids: Int[Array, " C"],
    compact_length: Int[Array, ""],
    entry_index: Int[Array, " C"],
    grid_thw: Int[Array, "E 3"],
    second_per_grid: Float[Array, " E"],
    *,
    capacity: int,
    merge_size: int = 2,
    tokens_per_second: int = 2,
) -> PromptLayout:
    """Repeats each entry's placeholder once per merged token and numbers all positions.

    Positions follow transformers 5 (convention ``hf-5``). Text advances by 1 on every axis. An
    entry that starts at ``p`` gives its token at (time k, row i, column j) the position
    ``(p + ⌊k · tokens_per_second · second_per_grid⌋, p + i, p + j)``, and the text after it
    resumes at ``p + max(rows, cols)``. Works under ``jax.vmap``.

    Args:
        compact_ids: prompt ids with one placeholder per entry.
        compact_length: valid ids.
        entry_index: the entry a placeholder stands for, -1 for text.
        grid_thw: grids in patches, in the order in which their tokens are packed; an entry of
            zeros takes no position.
        second_per_grid: seconds between the temporal patches of an entry. Images have a single
            temporal patch, so theirs has no effect.
        capacity: static length ``T``.
        merge_size: side in patches of a merged token.
        tokens_per_second: temporal positions per second of video.

    Returns:
        The layout, with ``overflow`` set when the prompt does not fit.
    """
    grid_thw = jnp.asarray(grid_thw, jnp.int32)
    rows, cols = grid_thw[:, 1] // merge_size, grid_thw[:, 2] // merge_size
    tokens = grid_thw[:, 0] * rows * cols
    visual = entry_index >= 0
    entry = jnp.maximum(entry_index, 0)
    present = jnp.arange(len(compact_ids)) < compact_length
    count = jnp.where(present, jnp.where(visual, tokens[entry], 1), 0)
    advance = jnp.where(visual, jnp.maximum(rows, cols)[entry] * (tokens[entry] > 0), 1)
    advance = jnp.where(present, advance, 0)
    ends = jnp.cumsum(count)

    position = jnp.arange(capacity, dtype=jnp.int32)
    mask = position < ends[-1]
    source = jnp.minimum(
        jnp.searchsorted(ends, position, side="right", method="compare_all"), len(ends) - 1
    )
    within = position - (ends - count)[source]
    base = (jnp.cumsum(advance) - advance)[source]
    at = entry[source]
    is_visual = mask & visual[source]
    time, in_frame = jnp.divmod(within, jnp.maximum(rows * cols, 1)[at])
    row, col = jnp.divmod(in_frame, jnp.maximum(cols, 1)[at])
    interval = (jnp.float32(tokens_per_second) * second_per_grid.astype(jnp.float32))[at]
    time = jnp.floor(time.astype(jnp.float32) * interval).astype(jnp.int32)
    offsets = jnp.where(is_visual[None, :], jnp.stack([time, row, col]), 0)
    first_token = (jnp.cumsum(tokens) - tokens)[at]
    return PromptLayout(
        token_ids=jnp.where(mask, compact_ids[source], 0).astype(jnp.int32),
        visual_index=jnp.where(is_visual, first_token + within, -1).astype(jnp.int32),
        position_ids=jnp.where(mask[None, :], base[None, :] + offsets, 0).astype(jnp.int32),
        mask=mask,
        length=ends[-1].astype(jnp.int32),
        next_position=jnp.sum(advance).astype(jnp.int32),
        overflow=ends[-1] > capacity,
    )
