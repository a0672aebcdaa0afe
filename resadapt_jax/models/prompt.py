"""Expands a compact prompt, one placeholder per visual entry, into ids, positions and gathers."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from resadapt_jax.errors import UserError
from resadapt_jax.models.convention import Convention
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
        next_position: position, on all three axes, of the first generated token: behind all.
        overflow: the prompt needs more than ``T`` positions.
    """

    token_ids: Int[Array, "*B T"]
    visual_index: Int[Array, "*B T"]
    position_ids: Int[Array, "*B 3 T"]
    mask: Bool[Array, "*B T"]
    length: Int[Array, "*B"]
    next_position: Int[Array, "*B"]
    overflow: Bool[Array, "*B"]


@jax.jit(static_argnames=("capacity", "merge_size", "tokens_per_second", "convention"))
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
    convention: Convention = Convention.HF_5,
    entry_time: Int[Array, " E"] | None = None,
    native_thw: Int[Array, "E 3"] | None = None,
) -> PromptLayout:
    """Repeats each entry's placeholder once per merged token and numbers all positions.

    Text advances by 1 on every axis; ``convention`` says how entries are numbered and where text
    resumes. Works under ``jax.vmap``.

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
        entry_time: temporal position of a pair in its video (`convention.running_time`); needed by
            conventions that share an anchor, ignored by the others.
        native_thw: grids at scale 1, needed by ``RESADAPT_NATIVE`` alone.

    Returns:
        The layout, with ``overflow`` set when the prompt does not fit.

    Raises:
        ValueError: the convention needs ``entry_time`` or ``native_thw`` and there is none.
    """
    if convention.shares_anchor and entry_time is None:
        raise ValueError(f"convention {convention.value} needs entry_time")
    if convention is Convention.RESADAPT_NATIVE and native_thw is None:
        raise ValueError(f"convention {convention.value} needs native_thw")
    grid_thw = jnp.asarray(grid_thw, jnp.int32)
    rows, cols = grid_thw[:, 1] // merge_size, grid_thw[:, 2] // merge_size
    tokens = grid_thw[:, 0] * rows * cols
    visual = entry_index >= 0
    entry = jnp.maximum(entry_index, 0)
    present = jnp.arange(len(compact_ids)) < compact_length
    count = jnp.where(present, jnp.where(visual, tokens[entry], 1), 0)
    ends = jnp.cumsum(count)

    interval = tokens_per_second * _seconds(second_per_grid, convention)
    start = entry_time if convention.shares_anchor else jnp.zeros(len(grid_thw), jnp.int32)
    spread = native_thw if convention is Convention.RESADAPT_NATIVE else grid_thw
    spread_rows, spread_cols = (jnp.asarray(spread)[:, axis] // merge_size for axis in (1, 2))
    last_time = start + jnp.floor(jnp.maximum(grid_thw[:, 0] - 1, 0) * interval).astype(jnp.int32)
    extent = jnp.maximum(jnp.maximum(spread_rows, spread_cols), last_time + 1)
    behind = jnp.maximum(rows, cols) if convention is Convention.HF_5 else extent
    advance = jnp.where(visual, jnp.where(tokens > 0, behind, 0)[entry], 1)
    advance = jnp.where(present, advance, 0)
    if convention.shares_anchor:
        advance = _once_per_run(advance, visual & present)
    bases = jnp.cumsum(advance) - advance

    position = jnp.arange(capacity, dtype=jnp.int32)
    mask = position < ends[-1]
    source = jnp.minimum(
        jnp.searchsorted(ends, position, side="right", method="compare_all"), len(ends) - 1
    )
    within = position - (ends - count)[source]
    at = entry[source]
    is_visual = mask & visual[source]
    time, in_frame = jnp.divmod(within, jnp.maximum(rows * cols, 1)[at])
    row, col = jnp.divmod(in_frame, jnp.maximum(cols, 1)[at])
    time = start[at] + jnp.floor(time.astype(jnp.float32) * interval[at]).astype(jnp.int32)
    row = row * spread_rows[at] // jnp.maximum(rows, 1)[at]
    col = col * spread_cols[at] // jnp.maximum(cols, 1)[at]
    offsets = jnp.where(is_visual[None, :], jnp.stack([time, row, col]), 0)
    position_ids = jnp.where(mask[None, :], bases[source][None, :] + offsets, 0).astype(jnp.int32)
    first_token = (jnp.cumsum(tokens) - tokens)[at]
    return PromptLayout(
        token_ids=jnp.where(mask, compact_ids[source], 0).astype(jnp.int32),
        visual_index=jnp.where(is_visual, first_token + within, -1).astype(jnp.int32),
        position_ids=position_ids,
        mask=mask,
        length=ends[-1].astype(jnp.int32),
        next_position=jnp.max(jnp.where(mask[None, :], position_ids + 1, 0)),
        overflow=ends[-1] > capacity,
    )


def check_placeholders(
    entry_index: Int[Array, "*B C"],
    compact_length: Int[Array, "*B"],
    grid_thw: Int[Array, "*B E 3"],
    merge_size: int,
) -> None:
    """Refuses prompts that do not show every entry with tokens once; does nothing under a trace.

    Raises:
        UserError: names the first such prompt and entry, its visual positions and visual tokens.
    """
    if any(isinstance(x, jax.core.Tracer) for x in (entry_index, compact_length, grid_thw)):
        return
    entries, width = grid_thw.shape[-2], entry_index.shape[-1]
    tokens = np.prod(np.asarray(grid_thw), axis=-1).reshape(-1, entries) // merge_size**2
    present = np.arange(width)[None, :] < np.asarray(compact_length).reshape(-1, 1)
    index = np.where(present, np.asarray(entry_index).reshape(-1, width), -1)
    for row, (places, counts) in enumerate(zip(index, tokens, strict=True)):
        times = np.bincount(places[places >= 0], minlength=entries)
        if len(times) > entries:
            raise UserError(f"prompt {row} shows entry {len(times) - 1}, it has {entries} entries")
        if (wrong := np.flatnonzero((times != 1) & (counts > 0))).size:
            raise UserError(
                f"prompt {row} has {times @ counts} visual positions for {counts.sum()} visual"
                f" tokens: it shows entry {wrong[0]} {times[wrong[0]]} times"
            )


def _seconds(second_per_grid: Float[Array, " E"], convention: Convention) -> Float[Array, " E"]:
    seconds = second_per_grid.astype(jnp.float32)
    return jnp.floor(seconds) if convention is Convention.HF_4_57 else seconds


def _once_per_run(advance: Int[Array, " C"], visual: Bool[Array, " C"]) -> Int[Array, " C"]:
    """The largest advance of every run of adjacent entries, at its end; text keeps its own."""
    begins = visual & ~jnp.pad(visual, (1, 0))[:-1]
    ends = visual & ~jnp.pad(visual, (0, 1))[1:]
    run = jnp.cumsum(begins)
    largest = jax.ops.segment_max(jnp.where(visual, advance, 0), run, len(advance) + 1)[run]
    return jnp.where(visual, jnp.where(ends, largest, 0), advance)
