"""The arithmetic of the Mosaic kernel: vertical products, horizontal products, order of features.

Functions of references to memory, called in the body of `pallas_tpu`'s kernel.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.resize_patchify.spec import PatchSpec
from kernels.resize_patchify.weights import unnormalised, window

LANES = 128
TILE = 8  # rows of a tile of memory
BAND = 64  # input rows read at once: what 28 output rows need, wherever they lie
_ALIGN = 32  # rows of a tile of bytes
_SPAN = 512  # input columns multiplied at once


@dataclass(frozen=True, kw_only=True)
class Static:
    """Sizes known when the kernel is traced."""

    spec: PatchSpec
    frames: int  # of a clip
    units: int  # of a clip
    height: int  # of the canvas, padding excluded
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
        """Of the canvas, in whole tiles: what can be copied."""
        return -(-self.height // TILE) * TILE

    @property
    def last_read(self) -> int:
        """First row of the read that ends with the canvas."""
        return max(0, -(-self.stored_height // _ALIGN) * _ALIGN - BAND)

    @property
    def blocks(self) -> int:
        """Merge blocks of a chunk."""
        return LANES // self.spec.block_size

    @property
    def block_rows(self) -> int:
        return self.spec.merge_size**2

    @property
    def tiles(self) -> int:
        """Output tiles that a chunk may touch, and the one that it may begin."""
        return (self.blocks * self.block_rows + TILE - 1) // TILE + 1

    @property
    def groups(self) -> list[range]:
        """Rows of a patch that fit into 128 lanes side by side."""
        size, fit = self.spec.patch_size, LANES // self.spec.patch_size
        return [range(y, min(y + fit, size)) for y in range(0, size, fit)]

    @property
    def how(self) -> dict:
        return {"filter": self.spec.filter, "antialias": self.spec.antialias}


def vertical(step, table, frames, pixels, sums, halves, state, arrived, static):
    """halves = W_y · pixels of the band, as high and low half; reads ahead for the next entry."""
    unit_ref, row_ref, heights, source_heights, source_widths = table
    spec, lead = static.spec, static.lead
    unit, row = unit_ref[step], row_ref[step]
    in_height, out_height = source_heights[unit], heights[unit]
    low, reads = _band(step, table, static)
    fetch = partial(_fetch, frames=frames, pixels=pixels, sem=arrived, static=static)
    base = state[0]
    following = jnp.minimum(step + 1, pl.num_programs(0) - 1)

    # The entry before has asked for the first rows, if it was one of a unit.
    @pl.when((step == 0) | (unit_ref[jnp.maximum(step - 1, 0)] < 0))
    def _():
        fetch(unit, low, base, lambda copy: copy.start())

    y = lax.broadcasted_iota(jnp.int32, (spec.merge_size * lead, 1), 0)
    within = y % lead
    y = (row * spec.merge_size + y // lead) * spec.patch_size + within

    def read(n, total):
        slot, begin = (base + n) % 2, low + n * BAND

        @pl.when(n + 1 < reads)
        def _():
            fetch(unit, begin + BAND, 1 - slot, lambda copy: copy.start())

        @pl.when((n + 1 == reads) & (following > step) & (unit_ref[following] >= 0))
        def _():
            first, _ = _band(following, table, static)
            fetch(unit_ref[following], first, 1 - slot, lambda copy: copy.start())

        fetch(unit, begin, slot, lambda copy: copy.wait())
        start = jnp.minimum(begin, static.last_read)
        j = start + lax.broadcasted_iota(jnp.int32, (1, BAND), 1)
        weights = unnormalised(y, j, in_height, out_height, **static.how)
        # The last read may begin early, so as to end with the canvas.
        weights = jnp.where((within < spec.patch_size) & (j >= begin), weights, 0.0)

        @pl.loop(0, static.planes, unroll=True)
        def _(plane):
            frame = plane % spec.temporal_patch_size
            image = pixels.at[slot, frame, plane // spec.temporal_patch_size]
            for x in range(0, image.shape[1], _SPAN):
                span = slice(x, min(x + _SPAN, image.shape[1]))
                product = _product(weights, image[:, span], in_height - start)
                product = product.reshape(spec.merge_size, lead, -1)
                sums[:, plane, :, span] = product + jnp.where(n == 0, 0.0, sums[:, plane, :, span])

        return total + jnp.sum(weights, axis=1, keepdims=True)

    total = lax.fori_loop(0, reads, read, jnp.zeros(y.shape, jnp.float32))
    state[0] = (base + reads) % 2
    scale = _inverse(total).reshape(spec.merge_size, lead, 1)

    @pl.loop(0, static.planes, unroll=True)
    def _(plane):
        width = frames.shape[-1]
        tall = sums[:, plane, :, :width] * scale
        if jnp.issubdtype(frames.dtype, jnp.floating):
            # Columns beyond the source have no weight, but may be NaN.
            column = lax.broadcasted_iota(jnp.int32, tall.shape, 2)
            tall = jnp.where(column < source_widths[unit], tall, 0.0)
        high, rest = _split(tall)
        halves[0, :, plane, :, :width] = high
        halves[1, :, plane, :, :width] = rest


def prepare(out_width, in_width, across, inverse, spans, static):
    """Horizontal weights of a unit, which serve all its rows.

    across: tiles of 128 x 128 as high and low half; inverse: of their sums, by chunk; spans: by
    chunk, the first 128 input columns that have weights, and the first of its tiles.
    """
    size = static.blocks * static.spec.block_size
    chunks = pl.cdiv(out_width, size)

    def chunk(n, place):
        x = n * size
        last = jnp.minimum(x + size, out_width) - 1
        low, high = window(x, last, in_width, out_width, **static.how)
        first, end = low // LANES, pl.cdiv(high, LANES)
        spans[0, n], spans[1, n] = first, place
        i = x + lax.broadcasted_iota(jnp.int32, (1, LANES), 1)

        def tile(k, total):
            j = k * LANES + lax.broadcasted_iota(jnp.int32, (LANES, 1), 0)
            weights = unnormalised(i, j, in_width, out_width, **static.how)
            across[0, place + k - first], across[1, place + k - first] = _split(weights)
            return total + jnp.sum(weights, axis=0, keepdims=True)

        total = lax.fori_loop(first, end, tile, jnp.zeros((1, LANES), jnp.float32))
        inverse[n] = _inverse(total)
        return place + end - first

    spans[1, chunks] = lax.fori_loop(0, chunks, chunk, 0)


def horizontal(n, halves, across, inverse, spans, chunk, static):
    """chunk = halves · W_xᵀ: columns of pixels of the n-th four merge blocks."""
    rows = static.spec.merge_size * static.planes * static.lead
    first, place = spans[0, n], spans[1, n]

    def multiply(k, pixels):
        start = pl.multiple_of((first + k) * LANES, LANES)
        both = halves[:, :, :, :, pl.ds(start, LANES)].reshape(2 * rows, LANES)
        product = _dot(both, across[0, place + k])
        return pixels + product[:rows] + product[rows:] + _dot(both[:rows], across[1, place + k])

    nothing = jnp.zeros((rows, LANES), jnp.float32)
    pixels = lax.fori_loop(0, spans[1, n + 1] - place, multiply, nothing) * inverse[n]
    if static.spec.rounding == "final":
        pixels = jnp.round(jnp.clip(pixels, 0.0, 255.0))
    chunk[...] = pixels.reshape(chunk.shape)


def turn(chunk, turned, tiles, offset, static):
    """Output tiles of a chunk, (x/255 - μ)/σ; its first row is the tiles' row `offset`.

    turned[group][(plane, token), (y, x)] = chunk[token row, (plane, y), (token column, x)]: rolling
    row y of all patches by y patches, then choosing, then rolling back by the token column costs
    two rolls where moving each piece to its place costs one for every token.
    """
    size, merge, planes = static.spec.patch_size, static.spec.merge_size, static.planes
    lane = lax.broadcasted_iota(jnp.int32, (planes, LANES), 1)
    # A buffer for each group, so that the compiler sees that they are independent.
    for ys, target in zip(static.groups, turned, strict=True):

        @pl.loop(0, merge, unroll=True)
        def _(token_row, ys=ys, target=target):
            rolled = [
                _roll(chunk[token_row, pl.ds(y, planes, stride=static.lead)], size * (y - ys[0]))
                for y in ys
            ]

            @pl.loop(0, static.blocks * merge, unroll=True)
            def _(col):
                place = (lane - size * col) & (LANES - 1)
                row = rolled[-1]
                for n in reversed(range(len(rolled) - 1)):
                    row = jnp.where(place < size * (n + 1), rolled[n], row)
                token = col // merge * merge**2 + token_row * merge + col % merge
                where = pl.ds(offset + token, planes, stride=static.tiles * TILE)
                target[where] = _roll(row, (-size * col) & (LANES - 1))

        _normalise(target, tiles, ys, static)


def _normalise(turned, tiles, ys, static):
    """The rows `ys` of all patches to their features."""
    spec, rows = static.spec, static.tiles * TILE
    width = len(ys) * spec.patch_size
    scales = [1.0 / (255.0 * std) for std in spec.std]
    shifts = [-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)]

    @pl.loop(0, static.planes, unroll=True)
    def _(plane):
        channel = plane // spec.temporal_patch_size
        scale, shift = (
            jnp.where(channel == 0, r, jnp.where(channel == 1, g, b))
            for r, g, b in (scales, shifts)
        )
        values = turned[pl.ds(plane * rows, rows), :width] * scale + shift
        at = (plane * spec.patch_size + ys[0]) * spec.patch_size
        tiles[:, :, pl.ds(at, width)] = values.reshape(-1, TILE, width).astype(tiles.dtype)


def _band(step, table, static):
    """First input row that an entry reads, and how many times 64."""
    unit_ref, row_ref, heights, source_heights, _ = table
    side = static.spec.block_size
    first, unit = row_ref[step] * side, unit_ref[step]
    last = first + side - 1
    low, high = window(first, last, source_heights[unit], heights[unit], **static.how)
    low = low // _ALIGN * _ALIGN
    return low, pl.cdiv(high - low, BAND)


def _fetch(unit, low, slot, act, *, frames, pixels, sem, static):
    """Starts or awaits a read: 64 rows, or what is left, of each frame of a unit."""
    clip, unit = unit // static.units, unit % static.units
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
        copy(pl.ds(pl.multiple_of(low, _ALIGN), BAND))

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
    # Rows beyond the source, and those that a shorter read left as they were, may hold anything.
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
