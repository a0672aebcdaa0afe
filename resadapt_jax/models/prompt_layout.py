"""Expands a compact prompt, one placeholder per visual entry, into ids, positions and gathers."""

from typing import NamedTuple

import flax.struct
import jax
import numpy as np

from resadapt_jax.errors import UserError
from resadapt_jax.models.host_or_device import namespace_of, on_host
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.vision_plan import check_grids
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
    entry_milliseconds: Int[Array, " E"] | None = None,
    native_thw: Int[Array, "E 3"] | None = None,
) -> PromptLayout:
    """Repeats each entry's placeholder once per merged token and numbers all positions.

    Text advances by 1 on every axis; ``convention`` says how entries are numbered and where text
    resumes. Works under ``jax.vmap``. Where all arrays are numpy's, so is the layout.

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
        entry_milliseconds: time of a pair in its video; needed by conventions that share an
            anchor, ignored by the others.
        native_thw: grids at scale 1, needed by ``RESADAPT_NATIVE`` alone.

    Returns:
        The layout, with ``overflow`` set when the prompt does not fit.

    Raises:
        ValueError: the convention needs ``entry_milliseconds`` or ``native_thw`` and there is none.
    """
    if convention.shares_anchor and entry_milliseconds is None:
        raise ValueError(f"convention {convention.value} needs entry_milliseconds")
    if convention is Convention.RESADAPT_NATIVE and native_thw is None:
        raise ValueError(f"convention {convention.value} needs native_thw")
    numbering = _Numbering(merge_size, tokens_per_second, convention)
    arrays = [compact_ids, compact_length, entry_index, grid_thw, second_per_grid]
    arrays += [entry_milliseconds if convention.shares_anchor else None]
    arrays += [native_thw if convention is Convention.RESADAPT_NATIVE else grid_thw]
    host = on_host(*(x for x in arrays if x is not None))
    return (_expand if host else _expand_jitted)(*arrays, capacity, numbering)


class _Numbering(NamedTuple):
    """What positions depend on besides arrays."""

    merge_size: int
    tokens_per_second: int
    convention: Convention


class _Parts(NamedTuple):
    """The compact prompt: one row per text token or entry, absent ones with ``count`` 0."""

    is_visual: Bool[Array, " C"]
    entry: Int[Array, " C"]  # 0 for text
    count: Int[Array, " C"]  # positions it expands to
    start: Int[Array, " C"]  # temporal offset of its first token
    base: Int[Array, " C"]  # position at which it begins


def _expand(
    compact_ids, compact_length, entry_index, grid_thw, seconds, milliseconds, spread_thw,
    capacity: int, numbering: _Numbering,
) -> PromptLayout:  # fmt: skip
    xp = namespace_of(compact_ids, compact_length, entry_index, grid_thw)
    grid = _merged(grid_thw, numbering.merge_size)
    spread = _merged(spread_thw, numbering.merge_size)
    tokens = xp.prod(grid, axis=1, dtype=xp.int32)
    interval = _interval(seconds, numbering)
    parts = _number_parts(
        compact_length, entry_index, grid, spread, interval, milliseconds, numbering
    )
    ends = xp.cumsum(parts.count, dtype=xp.int32)
    position = xp.arange(capacity, dtype=xp.int32)
    mask = position < ends[-1]
    part = xp.sum(ends[None, :] <= position[:, None], axis=1)
    part = xp.minimum(part, len(ends) - 1)
    within = position - (ends - parts.count)[part]
    entry = parts.entry[part]
    is_visual = mask & parts.is_visual[part]

    _, rows, cols = xp.maximum(grid, 1)[entry].T
    time, in_frame = xp.divmod(within, rows * cols)
    row, col = xp.divmod(in_frame, cols)
    later = xp.floor(time.astype(xp.float32) * interval[entry]).astype(xp.int32)
    time = parts.start[part] + later
    row, col = row * spread[entry, 1] // rows, col * spread[entry, 2] // cols
    offsets = xp.where(is_visual[None, :], xp.stack([time, row, col]), 0)
    position_ids = xp.where(mask[None, :], parts.base[part][None, :] + offsets, 0)
    first_token = (xp.cumsum(tokens, dtype=xp.int32) - tokens)[entry]
    return PromptLayout(
        token_ids=xp.where(mask, compact_ids[part], 0).astype(xp.int32),
        visual_index=xp.where(is_visual, first_token + within, -1),
        position_ids=position_ids,
        mask=mask,
        length=ends[-1],
        next_position=xp.max(xp.where(mask[None, :], position_ids + 1, 0)),
        overflow=ends[-1] > capacity,
    )


_expand_jitted = jax.jit(_expand, static_argnums=(7, 8))


def _number_parts(
    compact_length, entry_index, grid, spread, interval, milliseconds, numbering: _Numbering
) -> _Parts:
    """Where each text token and each entry begins, and how many positions it takes."""
    xp = namespace_of(compact_length, entry_index, grid)
    entry = xp.maximum(entry_index, 0)
    tokens = xp.prod(grid, axis=1, dtype=xp.int32)[entry]
    present = xp.arange(len(entry_index), dtype=xp.int32) < compact_length
    is_visual = present & (entry_index >= 0)
    count = xp.where(is_visual, tokens, present.astype(xp.int32))

    if numbering.convention.shares_anchor:
        same_run = _same_run(is_visual)
        since = milliseconds[entry] - milliseconds[entry[xp.argmax(same_run, axis=1)]]
        start = numbering.tokens_per_second * since // 1000
    else:
        start = xp.zeros_like(entry)
    last = xp.floor(xp.maximum(grid[:, 0] - 1, 0) * interval).astype(xp.int32)
    extent = xp.maximum(xp.max(spread[:, 1:], axis=1)[entry], start + last[entry] + 1)
    if numbering.convention is Convention.HF_5:
        extent = xp.max(grid[:, 1:], axis=1)[entry]
    advance = xp.where(is_visual, xp.where(tokens > 0, extent, 0), present.astype(xp.int32))
    if numbering.convention.shares_anchor:
        # The last pair of a run advances by the most that any of its pairs does.
        most = xp.max(xp.where(same_run, advance[None, :], 0), axis=1)
        ends_run = ~xp.pad(is_visual, (0, 1))[1:]
        advance = xp.where(is_visual, xp.where(ends_run, most, 0), advance)
    base = xp.cumsum(advance, dtype=xp.int32) - advance
    return _Parts(is_visual, entry, count, start, base)


def _same_run(is_visual: Bool[Array, " C"]) -> Bool[Array, "C C"]:
    """Whether two places hold pairs of the same video, between which there is no text."""
    xp = namespace_of(is_visual)
    run = xp.cumsum(~is_visual)
    return (run[:, None] == run[None, :]) & is_visual[:, None] & is_visual[None, :]


def _merged(grid_thw: Int[Array, "E 3"], merge_size: int) -> Int[Array, "E 3"]:
    """Temporal patches, rows and columns of merged tokens."""
    xp = namespace_of(grid_thw)
    return xp.asarray(grid_thw, xp.int32) // xp.array([[1, merge_size, merge_size]], xp.int32)


def _interval(seconds: Float[Array, " E"], numbering: _Numbering) -> Float[Array, " E"]:
    """Temporal positions from one temporal patch of an entry to the next, float32."""
    xp = namespace_of(seconds)
    seconds = xp.asarray(seconds, xp.float32)
    if numbering.convention is Convention.HF_4_57:
        seconds = xp.floor(seconds)
    return numbering.tokens_per_second * seconds


def check_placeholders(
    entry_index: Int[Array, "*B C"],
    compact_length: Int[Array, "*B"],
    grid_thw: Int[Array, "*B E 3"],
    merge_size: int,
) -> None:
    """Refuses prompts that do not show every entry with tokens once; does nothing under a trace.

    Raises:
        UserError: names the first such prompt and entry, its visual positions and visual tokens; or
            a grid is not legal (`vision_plan.check_grids`).
    """
    if any(isinstance(x, jax.core.Tracer) for x in (entry_index, compact_length, grid_thw)):
        return
    check_grids(grid_thw, merge_size)
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
