"""The Mosaic kernel, TPUs: one program per row of merge blocks, all clips of a batch in one launch.

A program reads its band of input rows, 64 at a time and one ahead of the arithmetic, so any frame
height fits; multiplies by the vertical weights; then, four merge blocks (128 lanes) at a time,
by the horizontal ones; and turns the columns of pixels into rows of features. Weights are made on
the way. Programs run in the order of the output, a stream of tiles of 8 rows: what does not fill
a tile waits for the next program, so every write is of whole tiles and XLA copies nothing after.

Products are of bfloat16 halves (x = high + low, three of the four products; whole pixels have no
low half), accumulated in float32: 0.005 grey level, whatever the spec's precision asks for.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Num

from kernels.resize_patchify.layout import Layout
from kernels.resize_patchify.spec import PatchSpec
from kernels.resize_patchify.weights import unnormalised, window

_LANES = 128
_TILE = 8  # rows of a tile of the output
_BAND = 64  # input rows read at once: what 28 output rows need, wherever they lie
_ALIGN = 32  # rows of a tile of bytes
_SPAN = 512  # input columns multiplied at once
_VMEM = 40 << 20
_SMEM = 768 << 10


@dataclass(frozen=True, kw_only=True)
class _Static:
    """Sizes known when the kernel is traced."""

    spec: PatchSpec
    frames: int  # of a clip
    units: int  # of a clip
    height: int  # of the input, padding excluded
    total_rows: int  # of the output

    @property
    def planes(self) -> int:
        return 3 * self.spec.temporal_patch_size

    @property
    def lead(self) -> int:
        """Rows that a patch's rows are kept in: a tile of bfloat16."""
        return -(-self.spec.patch_size // 16) * 16

    @property
    def stored_height(self) -> int:
        """Of the input, in whole tiles: what can be copied."""
        return -(-self.height // _TILE) * _TILE

    @property
    def last_read(self) -> int:
        """First row of the read that ends with the frame."""
        return max(0, -(-self.stored_height // _ALIGN) * _ALIGN - _BAND)

    @property
    def blocks(self) -> int:
        """Merge blocks of a chunk."""
        return _LANES // self.spec.block_size

    @property
    def block_rows(self) -> int:
        return self.spec.merge_size**2

    @property
    def tiles(self) -> int:
        """Output tiles that a chunk may touch, and the one that it may begin."""
        return (self.blocks * self.block_rows + _TILE - 1) // _TILE + 1

    @property
    def groups(self) -> list[range]:
        """Rows of a patch that fit into 128 lanes side by side."""
        size, fit = self.spec.patch_size, _LANES // self.spec.patch_size
        return [range(y, min(y + fit, size)) for y in range(0, size, fit)]

    @property
    def how(self) -> dict:
        return {"filter": self.spec.filter, "antialias": self.spec.antialias}


def lacks(frames_shape: tuple[int, ...], spec: PatchSpec) -> str | None:
    """Wide blocks, very wide frames, more clips than scalar memory holds the table of."""
    if spec.block_size > _LANES:
        return f"merge blocks have at most {_LANES} pixels a side, not {spec.block_size}"
    width = frames_shape[-2] if frames_shape[-1] == 3 else frames_shape[-1]
    planes = 3 * spec.temporal_patch_size
    lead = -(-spec.patch_size // 16) * 16
    # float32 pixels twice; sums in float32 and their two halves in bfloat16
    column = planes * (2 * _BAND * 4 + spec.merge_size * lead * 8)
    if width * column > _VMEM * 3 // 4:
        return f"frames have at most {_VMEM * 3 // 4 // column} columns, not {width}"
    units = -(-frames_shape[1] // spec.temporal_patch_size)
    numbers = frames_shape[0] * (4 * _strips_per_clip(units, spec) + 2 * units)
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
    frames = jnp.pad(frames, ((0, 0),) * 3 + ((0, -height % _TILE), (0, 0)))
    rows = spec.capacity * spec.merge_size**2
    static = _Static(
        spec=spec,
        frames=num_frames,
        units=layout.heights.shape[1],
        height=height,
        total_rows=batch * rows,
    )
    # float16 is none of a TPU's types.
    dtype = jnp.bfloat16 if spec.dtype == "bfloat16" else jnp.float32
    tiles = -(-batch * rows // _TILE)
    table = _strips(layout, spec)
    out = pl.pallas_call(
        partial(_program, static=static),
        out_shape=jax.ShapeDtypeStruct((tiles, _TILE, spec.features), dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(table),
            grid=(len(table[0]),),
            in_specs=[pl.BlockSpec(memory_space=pltpu.HBM)],
            out_specs=pl.BlockSpec(memory_space=pltpu.HBM),
            scratch_shapes=_scratch(static, width, frames.dtype, dtype),
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=_VMEM
        ),
        name="resize_patchify",
        interpret=interpret,
    )(*table, frames.reshape(-1, *frames.shape[2:]))
    out = out.reshape(tiles * _TILE, -1)[: batch * rows]
    return out.reshape(batch, rows, -1).astype(spec.output_dtype)


def _strips_per_clip(units: int, spec: PatchSpec) -> int:
    return min(units * (spec.max_height // spec.block_size), spec.capacity) + 1


def _strips(layout: Layout, spec: PatchSpec) -> tuple[Array, ...]:
    """One entry per program, in the order of the output, then the sizes of all units.

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
    table = unit, row, first + clips * spec.capacity, count, layout.heights, layout.widths
    return tuple(x.astype(jnp.int32).ravel() for x in table)


def _scratch(static, width, pixel_dtype, dtype):
    """In the order of the arguments of `_program`."""
    spec, planes, lead = static.spec, static.planes, static.lead
    lanes = -(-width // _LANES) * _LANES
    tiles, features = static.tiles, spec.features
    return [
        pltpu.VMEM((2, spec.temporal_patch_size, 3, _BAND, width), pixel_dtype),
        pltpu.VMEM((spec.merge_size, planes, lead, lanes), jnp.float32),
        pltpu.VMEM((2, spec.merge_size, planes, lead, lanes), jnp.bfloat16),
        pltpu.VMEM((spec.merge_size, planes * lead, _LANES), jnp.float32),
        pltpu.VMEM((len(static.groups), planes * tiles * _TILE, _LANES), jnp.float32),
        pltpu.VMEM((2, tiles, _TILE, features), dtype),
        pltpu.VMEM((_TILE, features), dtype),
        pltpu.SMEM((4,), jnp.int32),
        pltpu.SemaphoreType.DMA((2,)),
        pltpu.SemaphoreType.DMA((2,)),
    ]


def _program(
    unit_ref, row_ref, first_ref, count_ref, heights, widths,  # the table, scalars
    frames, out,  # in HBM
    pixels, sums, halves, chunk, turned, ready, carry, state, arrived, written,
    *, static,
):  # fmt: skip
    """One entry of the table.

    pixels: rows of the band, two times 64; sums: vertical products; halves: the same, normalised,
    in bfloat16; chunk: resized pixels of four blocks; turned: their features, one plane and group
    of rows at a time; ready: output tiles, two times; carry: the tile that is not yet full; state:
    next of the two `pixels`, next of the two `ready`, tiles of each `ready` that are being written.
    """
    step = pl.program_id(0)
    unit, first, count = unit_ref[step], first_ref[step], count_ref[step]
    put = partial(_put, out=out, ready=ready, carry=carry, state=state, sem=written, static=static)

    @pl.when(step == 0)
    def _():
        for n in range(4):
            state[n] = 0
        halves[...] = jnp.zeros_like(halves)  # the columns beyond the width stay so

    @pl.when(unit >= 0)
    def _():
        table = unit_ref, row_ref, heights
        _vertical(step, table, frames, pixels, sums, halves, state, arrived, static)

        @pl.loop(0, pl.cdiv(count, static.blocks))
        def _(n):
            done = n * static.blocks
            _horizontal(done, widths[unit], halves, chunk, frames.shape[-1], static)
            row = (first + done) * static.block_rows
            _turn(chunk, turned, row % _TILE, static)
            put(
                partial(_normalise, turned, static=static),
                row,
                jnp.minimum(count - done, static.blocks),
            )

    @pl.when(unit < 0)
    def _():
        @pl.loop(0, pl.cdiv(count, static.blocks))
        def _(n):
            done = n * static.blocks
            row = (first + done) * static.block_rows
            put(_clear, row, jnp.minimum(count - done, static.blocks))

    @pl.when(step == pl.num_programs(0) - 1)
    def _():
        for slot in range(2):
            _await(slot, out, ready, state, written)


def _vertical(step, table, frames, pixels, sums, halves, state, arrived, static):
    """halves = W_y · pixels of the band, as high and low half; reads ahead for the next entry."""
    unit_ref, row_ref, heights = table
    spec, lead = static.spec, static.lead
    unit, row = unit_ref[step], row_ref[step]
    out_height = heights[unit]
    low, reads = _band(step, table, static)
    fetch = partial(_fetch, table=table, frames=frames, pixels=pixels, sem=arrived, static=static)
    base = state[0]
    following = jnp.minimum(step + 1, pl.num_programs(0) - 1)

    # The entry before has asked for the first rows, if it was one of a unit.
    @pl.when((step == 0) | (unit_ref[jnp.maximum(step - 1, 0)] < 0))
    def _():
        fetch(step, 0, base, lambda copy: copy.start())

    y = lax.broadcasted_iota(jnp.int32, (spec.merge_size * lead, 1), 0)
    within = y % lead
    y = (row * spec.merge_size + y // lead) * spec.patch_size + within

    def read(n, total):
        slot = (base + n) % 2

        @pl.when(n + 1 < reads)
        def _():
            fetch(step, n + 1, 1 - slot, lambda copy: copy.start())

        @pl.when((n + 1 == reads) & (following > step) & (unit_ref[following] >= 0))
        def _():
            fetch(following, 0, 1 - slot, lambda copy: copy.start())

        fetch(step, n, slot, lambda copy: copy.wait())
        begin = low + n * _BAND
        start = jnp.minimum(begin, static.last_read)
        j = start + lax.broadcasted_iota(jnp.int32, (1, _BAND), 1)
        weights = unnormalised(y, j, static.height, out_height, **static.how)
        # The last read may begin early, so as to end with the frame.
        weights = jnp.where((within < spec.patch_size) & (j >= begin), weights, 0.0)

        @pl.loop(0, static.planes)
        def _(plane):
            frame = plane % spec.temporal_patch_size
            image = pixels.at[slot, frame, plane // spec.temporal_patch_size]
            for x in range(0, image.shape[1], _SPAN):
                span = slice(x, min(x + _SPAN, image.shape[1]))
                product = _product(weights, image[:, span], static.stored_height - start)
                product = product.reshape(spec.merge_size, lead, -1)
                sums[:, plane, :, span] = product + jnp.where(n == 0, 0.0, sums[:, plane, :, span])

        return total + jnp.sum(weights, axis=1, keepdims=True)

    total = lax.fori_loop(0, reads, read, jnp.zeros(y.shape, jnp.float32))
    state[0] = (base + reads) % 2
    scale = _inverse(total).reshape(spec.merge_size, lead, 1)

    @pl.loop(0, static.planes)
    def _(plane):
        width = frames.shape[-1]
        high, rest = _split(sums[:, plane, :, :width] * scale)
        halves[0, :, plane, :, :width] = high
        halves[1, :, plane, :, :width] = rest


def _horizontal(block, out_width, halves, chunk, in_width, static):
    """chunk = halves · W_xᵀ: columns of pixels from merge block `block` of the row on."""
    spec = static.spec
    x = block * spec.block_size
    last = jnp.minimum(x + static.blocks * spec.block_size, out_width) - 1
    low, high = window(x, last, in_width, out_width, **static.how)
    x += lax.broadcasted_iota(jnp.int32, (1, _LANES), 1)
    rows = spec.merge_size * static.planes * static.lead

    def multiply(n, accumulated):
        pixels, total = accumulated
        start = pl.multiple_of(n * _LANES, _LANES)
        j = start + lax.broadcasted_iota(jnp.int32, (_LANES, 1), 0)
        weights = unnormalised(x, j, in_width, out_width, **static.how)
        first, second = _split(weights)
        both = halves[:, :, :, :, pl.ds(start, _LANES)].reshape(2 * rows, _LANES)
        product = _dot(both, first)
        pixels += product[:rows] + product[rows:] + _dot(both[:rows], second)
        return pixels, total + jnp.sum(weights, axis=0, keepdims=True)

    nothing = jnp.zeros((rows, _LANES), jnp.float32), jnp.zeros((1, _LANES), jnp.float32)
    pixels, total = lax.fori_loop(low // _LANES, pl.cdiv(high, _LANES), multiply, nothing)
    pixels *= _inverse(total)
    if spec.rounding == "final":
        pixels = jnp.round(jnp.clip(pixels, 0.0, 255.0))
    chunk[...] = pixels.reshape(chunk.shape)


def _turn(chunk, turned, offset, static):
    """turned[group, (plane, token), (y, x)] = chunk[token row, (plane, y), (token column, x)].

    Rolling row y of all patches by y patches, then choosing, then rolling back by the token
    column costs two rolls where moving each piece to its place costs one for every token.
    `offset` is the place of the first token in its output tile.
    """
    size, merge, planes = static.spec.patch_size, static.spec.merge_size, static.planes
    lane = lax.broadcasted_iota(jnp.int32, (planes, _LANES), 1)

    @pl.loop(0, merge, unroll=True)
    def _(token_row):
        for group, ys in enumerate(static.groups):
            rolled = [
                _roll(chunk[token_row, pl.ds(y, planes, stride=static.lead)], size * (y - ys[0]))
                for y in ys
            ]

            @pl.loop(0, static.blocks * merge, unroll=True)
            def _(col, group=group, rolled=rolled):
                place = (lane - size * col) & (_LANES - 1)
                row = rolled[-1]
                for n in reversed(range(len(rolled) - 1)):
                    row = jnp.where(place < size * (n + 1), rolled[n], row)
                token = col // merge * merge**2 + token_row * merge + col % merge
                where = pl.ds(offset + token, planes, stride=static.tiles * _TILE)
                turned[group, where] = _roll(row, (-size * col) & (_LANES - 1))


def _normalise(turned, tiles, static):
    """Features of a chunk to output tiles, (x/255 - μ)/σ."""
    spec, rows = static.spec, static.tiles * _TILE

    @pl.loop(0, static.planes, unroll=True)
    def _(plane):
        channel = plane // spec.temporal_patch_size
        scale, shift = (
            jnp.where(channel == 0, values[0], jnp.where(channel == 1, values[1], values[2]))
            for values in (
                [1.0 / (255.0 * std) for std in spec.std],
                [-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)],
            )
        )
        for group, ys in enumerate(static.groups):
            width = len(ys) * spec.patch_size
            values = turned[group, pl.ds(plane * rows, rows), :width] * scale + shift
            at = (plane * spec.patch_size + ys[0]) * spec.patch_size
            values = values.reshape(static.tiles, _TILE, width)
            tiles[:, :, pl.ds(at, width)] = values.astype(tiles.dtype)


def _clear(tiles):
    tiles[...] = jnp.zeros_like(tiles)


def _put(fill, row, blocks, *, out, ready, carry, state, sem, static):
    """Appends rows to the output: writes the tiles that are full, keeps the last."""
    slot = state[1]
    state[1] = 1 - slot
    _await(slot, out, ready, state, sem)
    fill(ready.at[slot])
    offset = row % _TILE
    held = lax.broadcasted_iota(jnp.int32, carry.shape, 0) < offset
    ready[slot, 0] = jnp.where(held, carry[...], ready[slot, 0])
    filled = offset + blocks * static.block_rows
    carry[...] = ready[slot, filled // _TILE]
    ends = row - offset + filled == static.total_rows
    tiles = jnp.where(ends, pl.cdiv(filled, _TILE), filled // _TILE)
    state[2 + slot] = tiles

    @pl.when(tiles > 0)
    def _():
        target = out.at[pl.ds(row // _TILE, tiles)]
        pltpu.make_async_copy(ready.at[slot, pl.ds(0, tiles)], target, sem.at[slot]).start()


def _await(slot, out, ready, state, sem):
    """Until `ready[slot]` is free."""
    tiles = state[2 + slot]

    @pl.when(tiles > 0)
    def _():
        source = ready.at[slot, pl.ds(0, tiles)]
        pltpu.make_async_copy(source, out.at[pl.ds(0, tiles)], sem.at[slot]).wait()


def _band(step, table, static):
    """First input row that an entry reads, and how many times 64."""
    unit_ref, row_ref, heights = table
    side = static.spec.block_size
    first = row_ref[step] * side
    low, high = window(
        first, first + side - 1, static.height, heights[unit_ref[step]], **static.how
    )
    low = low // _ALIGN * _ALIGN
    return low, pl.cdiv(high - low, _BAND)


def _fetch(step, n, slot, act, *, table, frames, pixels, sem, static):
    """Starts or awaits the n-th read of an entry: 64 rows of each frame of its unit."""
    unit = table[0][step]
    clip, unit = unit // static.units, unit % static.units
    low = _band(step, table, static)[0] + n * _BAND
    per_unit = static.spec.temporal_patch_size

    def copy(rows):
        for t in range(per_unit):
            # An incomplete last unit repeats its last frame.
            frame = clip * static.frames + jnp.minimum(unit * per_unit + t, static.frames - 1)
            source, target = (
                frames.at[frame, :, rows, :],
                pixels.at[slot, t, :, pl.ds(0, rows.size), :],
            )
            act(pltpu.make_async_copy(source, target, sem.at[slot]))

    @pl.when(low < static.last_read)
    def _():
        copy(pl.ds(pl.multiple_of(low, _ALIGN), _BAND))

    @pl.when(low >= static.last_read)
    def _():
        copy(pl.ds(static.last_read, static.stored_height - static.last_read))


def _product(weights, pixels, valid):
    """weights · pixels, of which so many rows are valid; whole bytes have no low half."""
    rows = weights.shape[0]
    both = jnp.concatenate(_split(weights))
    if pixels.dtype == jnp.uint8:
        product = _dot(both, pixels.astype(jnp.bfloat16))
        return product[:rows] + product[rows:]
    # The rows that a shorter read left as they were may hold anything.
    row = lax.broadcasted_iota(jnp.int32, pixels.shape, 0)
    high, low = _split(jnp.where(row < valid, pixels.astype(jnp.float32), 0.0))
    product = _dot(both, high)
    return product[:rows] + product[rows:] + _dot(both[:rows], low)


def _split(x):
    """x = high + low up to 2⁻¹⁷ of it, both bfloat16."""
    high = x.astype(jnp.bfloat16)
    return high, (x - high.astype(jnp.float32)).astype(jnp.bfloat16)


def _dot(a, b):
    # Exact products of bfloat16, whatever precision the caller's configuration asks of matmuls.
    return jnp.dot(a, b, precision=lax.Precision.DEFAULT, preferred_element_type=jnp.float32)


def _inverse(total):
    return 1.0 / jnp.where(total == 0.0, 1.0, total)


def _roll(x, by):
    return pltpu.roll(x, by, 1)
