"""The Mosaic kernel, TPUs: one program per row of merge blocks, all clips of a batch in one launch.

A program reads its band of input rows, 64 at a time and one ahead of the arithmetic, so any frame
height fits; multiplies by the vertical weights; then, four merge blocks (128 lanes) at a time, by
the horizontal ones; and turns the columns of pixels into rows of features. Weights are made on the
way, the horizontal ones once a unit. Programs run in the order of the output, a stream of tiles of
8 rows: what does not fill a tile waits for the next program, so every write is of whole tiles and
XLA copies nothing after.

Products are of bfloat16 halves (x = high + low, three of the four products; whole pixels have no
low half), accumulated in float32: within 0.01 grey level, whatever the spec's precision asks for.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Num

from kernels.resize_patchify.layout import Layout
from kernels.resize_patchify.spec import PatchSpec
from kernels.resize_patchify.tpu_stages import (
    BAND,
    LANES,
    TILE,
    Static,
    horizontal,
    prepare,
    turn,
    vertical,
)
from kernels.resize_patchify.weights import RADIUS

_VMEM = 48 << 20  # bytes, of the 64 MiB and more of all generations since v5e
_ROOM = 8 << 20
_SMEM = 768 << 10  # of 1 MiB


def lacks(frames_shape: tuple[int, ...], spec: PatchSpec) -> str | None:
    """Wide blocks, very wide frames, more clips than scalar memory holds the table of."""
    if spec.block_size > LANES:
        return f"merge blocks have at most {LANES} pixels a side, not {spec.block_size}"
    width = frames_shape[-2] if frames_shape[-1] == 3 else frames_shape[-1]
    if (size := _vector_memory(width, spec)) > _VMEM:
        return f"frames of {width} columns need {size} bytes of vector memory, {_VMEM} are used"
    units = -(-frames_shape[1] // spec.temporal_patch_size)
    numbers = frames_shape[0] * (4 * _strips_per_clip(units, spec) + 4 * units)
    if 4 * numbers > _SMEM:
        return f"the table of {frames_shape[0]} clips has {4 * numbers} bytes, at most {_SMEM} fit"
    return None


def resize_patchify(
    frames: Num[Array, "B F H W 3"] | Num[Array, "B F 3 H W"],
    layout: Layout,
    spec: PatchSpec,
    *,
    interpret: bool | pltpu.InterpretParams = False,
) -> Float[Array, "B P D"]:
    """See `kernels.resize_patchify.api.resize_patchify`.

    Frames whose channels are last are transposed first, those of a height that is no multiple of 8
    padded, float16 widened: a copy of the frames each, by XLA. A number of output rows that is no
    multiple of 8 costs a copy of the output. All else is read and written once, without a buffer.
    """
    if frames.shape[-1] == 3:
        frames = jnp.moveaxis(frames, -1, -3)
    if frames.dtype not in (jnp.uint8, jnp.bfloat16):
        frames = frames.astype(jnp.float32)
    batch, num_frames, _, height, width = frames.shape
    frames = jnp.pad(frames, ((0, 0),) * 3 + ((0, -height % TILE), (0, 0)))
    rows = spec.capacity * spec.merge_size**2
    static = Static(
        spec=spec,
        frames=num_frames,
        units=layout.heights.shape[1],
        height=height,
        total_rows=batch * rows,
    )
    # float16 is none of a TPU's types.
    dtype = jnp.bfloat16 if spec.dtype == "bfloat16" else jnp.float32
    tiles = -(-batch * rows // TILE)
    table = _strips(layout, (height, width), spec)
    out = pl.pallas_call(
        partial(_program, static=static),
        out_shape=jax.ShapeDtypeStruct((tiles, TILE, spec.features), dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(table),
            grid=(len(table[0]),),
            in_specs=[pl.BlockSpec(memory_space=pltpu.HBM)],
            out_specs=pl.BlockSpec(memory_space=pltpu.HBM),
            scratch_shapes=_scratch(static, width, frames.dtype, dtype),
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=_vector_memory(width, spec)
        ),
        name="resize_patchify",
        interpret=interpret,
    )(*table, frames.reshape(-1, *frames.shape[2:]))
    out = out.reshape(tiles * TILE, -1)[: batch * rows]
    return out.reshape(batch, rows, -1).astype(spec.output_dtype)


def _strips_per_clip(units: int, spec: PatchSpec) -> int:
    return min(units * (spec.max_height // spec.block_size), spec.capacity) + 1


def _strips(layout: Layout, canvas: tuple[int, int], spec: PatchSpec) -> tuple[Array, ...]:
    """One entry per program, in the order of the output, then sizes and sources of all units.

    Entries are (unit, row, first block, number of blocks): rows of blocks, unit by unit, then with
    unit -1 what the clip leaves of its capacity, then nothing up to a static number.
    """
    batch, units = layout.heights.shape
    rows, cols = layout.heights // spec.block_size, layout.widths // spec.block_size
    rows = jnp.where(cols > 0, rows, 0)
    index = jnp.arange(_strips_per_clip(units, spec), dtype=jnp.int32)

    def clip(rows, cols):
        ends, blocks = jnp.cumsum(rows), jnp.cumsum(rows * cols)
        unit = jnp.minimum(
            jnp.searchsorted(ends, index, side="right", method="compare_all"), units - 1
        )
        row = index - (ends - rows)[unit]
        first = (blocks - rows * cols)[unit] + row * cols[unit]
        used, rest = blocks[-1], spec.capacity - blocks[-1]
        entries = (unit, row, first, cols[unit]), (-1, 0, used, rest), (-1, 0, used, 0)
        return [
            jnp.where(index < ends[-1], a, jnp.where(index == ends[-1], b, c))
            for a, b, c in zip(*entries, strict=True)
        ]

    unit, row, first, count = jax.vmap(clip)(rows, cols)
    clips = jnp.arange(batch, dtype=jnp.int32)[:, None]
    unit = jnp.where(unit < 0, -1, clips * units + unit)
    sizes = layout.heights, layout.widths, *layout.source_sizes(canvas)
    table = unit, row, first + clips * spec.capacity, count, *sizes
    return tuple(x.astype(jnp.int32).ravel() for x in table)


def _vector_memory(width: int, spec: PatchSpec) -> int:
    """Bytes, with float32 pixels and room for what does not grow with the width."""
    planes, lead = 3 * spec.temporal_patch_size, -(-spec.patch_size // 16) * 16
    # Pixels twice; sums in float32 and their two halves in bfloat16.
    column = planes * (2 * BAND * 4 + spec.merge_size * lead * 8)
    lanes = -(-width // LANES) * LANES
    return lanes * column + _weight_tiles(width, spec) * 4 * LANES**2 + _ROOM


def _chunks(spec: PatchSpec) -> int:
    """Of the widest row of blocks."""
    return -(-spec.max_width // (LANES // spec.block_size * spec.block_size))


def _weight_tiles(width: int, spec: PatchSpec) -> int:
    """Bound of the 128 x 128 tiles that a unit's horizontal weights fill.

    Chunks share the input between them, save what their windows overlap and the ends of tiles.
    """
    size, most = LANES // spec.block_size * spec.block_size, 0
    for out_width in range(spec.block_size, spec.max_width + 1, spec.block_size):
        overlap = 2 * RADIUS[spec.filter] * max(width / out_width, 1.0) + 2
        most = max(most, width / LANES + -(-out_width // size) * (overlap / LANES + 2))
    return math.ceil(most)


def _scratch(static, width, pixel_dtype, dtype):
    """In the order of the arguments of `_program`."""
    spec, planes, lead = static.spec, static.planes, static.lead
    lanes = -(-width // LANES) * LANES
    tiles, features = static.tiles, spec.features
    return [
        pltpu.VMEM((2, spec.temporal_patch_size, 3, BAND, width), pixel_dtype),
        pltpu.VMEM((spec.merge_size, planes, lead, lanes), jnp.float32),
        pltpu.VMEM((2, spec.merge_size, planes, lead, lanes), jnp.bfloat16),
        pltpu.VMEM((2, _weight_tiles(width, spec), LANES, LANES), jnp.bfloat16),
        pltpu.VMEM((_chunks(spec), 1, LANES), jnp.float32),
        pltpu.SMEM((2, _chunks(spec) + 1), jnp.int32),
        pltpu.VMEM((spec.merge_size, planes * lead, LANES), jnp.float32),
        pltpu.VMEM((2, tiles, TILE, features), dtype),
        pltpu.VMEM((TILE, features), dtype),
        pltpu.SMEM((4,), jnp.int32),
        pltpu.SemaphoreType.DMA((2,)),
        pltpu.SemaphoreType.DMA((2,)),
        *[pltpu.VMEM((planes * tiles * TILE, LANES), jnp.float32)] * len(static.groups),
    ]


def _program(
    unit_ref, row_ref, first_ref, count_ref,  # the table, scalars
    heights, widths, source_heights, source_widths,  # of all units, scalars
    frames, out,  # in HBM
    pixels, sums, halves, across, inverse, spans, chunk, ready, carry, state, arrived, written,
    *turned, static,
):  # fmt: skip
    """One entry of the table.

    pixels: rows of the band, two times 64; sums: vertical products; halves: the same, normalised,
    in bfloat16; across, inverse, spans: horizontal weights of the unit, see `prepare`; chunk:
    resized pixels of four blocks; turned: their features, one plane and group of rows at a time;
    ready: output tiles, two times; carry: the tile that is not yet full; state: next of the two
    `pixels`, next of the two `ready`, tiles of each `ready` that are being written.
    """
    step = pl.program_id(0)
    unit, first, count = unit_ref[step], first_ref[step], count_ref[step]
    chunks = pl.cdiv(count, static.blocks)
    claim = partial(_claim, out, ready, state, written)

    def send(slot, n):
        done = n * static.blocks
        blocks = jnp.minimum(count - done, static.blocks)
        row = (first + done) * static.block_rows
        _send(slot, row, blocks, out, ready, carry, state, written, static)

    @pl.when(step == 0)
    def _():
        for n in range(4):
            state[n] = 0
        halves[...] = jnp.zeros_like(halves)  # the columns beyond the width stay so

    @pl.when(unit >= 0)
    def _():
        table = unit_ref, row_ref, heights, source_heights, source_widths
        vertical(step, table, frames, pixels, sums, halves, state, arrived, static)

        @pl.when(row_ref[step] == 0)
        def _():
            prepare(widths[unit], source_widths[unit], across, inverse, spans, static)

        @pl.loop(0, chunks)
        def _(n):
            slot = claim()
            horizontal(n, halves, across, inverse, spans, chunk, static)
            offset = (first + n * static.blocks) * static.block_rows % TILE
            turn(chunk, turned, ready.at[slot], offset, static)
            send(slot, n)

    @pl.when(unit < 0)
    def _():
        @pl.loop(0, chunks)
        def _(n):
            slot = claim()
            ready[slot] = jnp.zeros(ready.shape[1:], ready.dtype)
            send(slot, n)

    @pl.when(step == pl.num_programs(0) - 1)
    def _():
        for slot in range(2):
            _await(slot, out, ready, state, written)


def _claim(out, ready, state, sem):
    """Which of the two `ready` is the next, as soon as it is written."""
    slot = state[1]
    state[1] = 1 - slot
    _await(slot, out, ready, state, sem)
    return slot


def _send(slot, row, blocks, out, ready, carry, state, sem, static):
    """Appends rows to the output: writes the tiles that are full, keeps the last."""
    offset = row % TILE
    held = lax.broadcasted_iota(jnp.int32, carry.shape, 0) < offset
    ready[slot, 0] = jnp.where(held, carry[...], ready[slot, 0])
    filled = offset + blocks * static.block_rows
    carry[...] = ready[slot, filled // TILE]
    ends = row - offset + filled == static.total_rows
    tiles = jnp.where(ends, pl.cdiv(filled, TILE), filled // TILE)
    state[2 + slot] = tiles

    @pl.when(tiles > 0)
    def _():
        target = out.at[pl.ds(row // TILE, tiles)]
        pltpu.make_async_copy(ready.at[slot, pl.ds(0, tiles)], target, sem.at[slot]).start()


def _await(slot, out, ready, state, sem):
    """Until `ready[slot]` is free."""
    tiles = state[2 + slot]

    @pl.when(tiles > 0)
    def _():
        source = ready.at[slot, pl.ds(0, tiles)]
        pltpu.make_async_copy(source, out.at[pl.ds(0, tiles)], sem.at[slot]).wait()
