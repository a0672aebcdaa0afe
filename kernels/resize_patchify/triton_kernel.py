"""The Triton kernel of `triton`, in a file of its own: importing it needs triton.

The formulas are those of `weights` and of `pallas_gpu`, in Triton's language.
"""

import triton
import triton.language as tl


@triton.jit
def _filter(x, RADIUS: tl.constexpr, ANTIALIAS: tl.constexpr):
    """`weights.RADIUS` tells the filters apart: 1 bilinear, 2 bicubic, 3 lanczos."""
    x = tl.abs(x)
    if RADIUS == 1:
        return tl.maximum(0.0, 1.0 - x)
    if RADIUS == 2:
        a: tl.constexpr = -0.5 if ANTIALIAS else -0.75
        near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
        far = a * (((x - 5.0) * x + 8.0) * x - 4.0)
        return tl.where(x < 1.0, near, tl.where(x < 2.0, far, 0.0))
    t = 3.141592653589793 * tl.where(x == 0.0, 1.0, x)
    sinc = tl.where(x == 0.0, 1.0, 3.0 * tl.sin(t) * tl.sin(t / 3.0) / (t * t))
    return tl.where(x < 3.0, sinc, 0.0)


@triton.jit
def _at(i, j, in_size, out_size, RADIUS: tl.constexpr, ANTIALIAS: tl.constexpr):
    """k((j - c_i)/f), its argument a quotient of integers."""
    support = tl.maximum(out_size, in_size) if ANTIALIAS else out_size
    offset = (2 * j + 1) * out_size - (2 * i + 1) * in_size
    return _filter(offset.to(tl.float32) / (2 * support).to(tl.float32), RADIUS, ANTIALIAS)


@triton.jit
def _weights(
    i, j, in_size, out_size, RADIUS: tl.constexpr, ANTIALIAS: tl.constexpr, HIGH: tl.constexpr
):
    """`weights.unnormalised`, at precision "normal" as float16 has it."""
    weights = _at(i, j, in_size, out_size, RADIUS, ANTIALIAS)
    if not ANTIALIAS:
        # The border pixel stands for those beyond it too.
        first = j * 0
        before = _at(i, first - 1, in_size, out_size, RADIUS, ANTIALIAS)
        after = _at(i, first + in_size, in_size, out_size, RADIUS, ANTIALIAS)
        for n in tl.static_range(1, RADIUS):
            before += _at(i, first - 1 - n, in_size, out_size, RADIUS, ANTIALIAS)
            after += _at(i, first + in_size + n, in_size, out_size, RADIUS, ANTIALIAS)
        weights += tl.where(j == 0, before, 0.0) + tl.where(j == in_size - 1, after, 0.0)
    weights = tl.where((i < out_size) & (j < in_size), weights, 0.0)
    return weights if HIGH else weights.to(tl.float16).to(tl.float32)


@triton.jit
def _window(first, last, in_size, out_size, RADIUS: tl.constexpr, ANTIALIAS: tl.constexpr):
    """`weights.window`."""
    support = tl.maximum(out_size, in_size) if ANTIALIAS else out_size
    reach = 2 * RADIUS * support
    low = tl.maximum((2 * first + 1) * in_size - reach, 0) // (2 * out_size)
    high = ((2 * last + 1) * in_size + reach) // (2 * out_size) + 1
    return tl.minimum(low, in_size - 1), tl.minimum(high, in_size)


@triton.jit
def _add_dot(total, a, b, SPLIT_A: tl.constexpr, SPLIT_B: tl.constexpr):
    """total + a · b in half precision; a split factor is the sum of two halves."""
    a_high, b_high = a.to(tl.float16), b.to(tl.float16)
    total = tl.dot(a_high, b_high, total)
    if SPLIT_A:
        total = tl.dot((a - a_high.to(tl.float32)).to(tl.float16), b_high, total)
    if SPLIT_B:
        b_low = (b.to(tl.float32) - b_high.to(tl.float32)).to(tl.float16)
        total = tl.dot(a_high, b_low, total)
    return total


@triton.jit
def _store(out, values, total, MEAN: tl.constexpr, STD: tl.constexpr, ROUND: tl.constexpr, mask):
    values *= 1.0 / tl.where(total == 0.0, 1.0, total)
    if ROUND:
        # Adding 1.5 · 2²³ leaves no bit for a fraction, and float32 rounds half to even.
        values = (tl.minimum(tl.maximum(values, 0.0), 255.0) + 12582912.0) - 12582912.0
    values = (values - 255.0 * MEAN) * (1.0 / (255.0 * STD))
    # Padding has no weights.
    values = tl.where(total == 0.0, 0.0, values)
    tl.store(out, values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def kernel(
    table,
    frames,
    out,
    NUM_BLOCKS: tl.constexpr,
    NUM_FRAMES: tl.constexpr,
    CANVAS_HEIGHT: tl.constexpr,
    CANVAS_WIDTH: tl.constexpr,
    SOURCES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PATCH: tl.constexpr,
    MERGE: tl.constexpr,
    PER_UNIT: tl.constexpr,
    PADDED: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLS: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    RADIUS: tl.constexpr,
    ANTIALIAS: tl.constexpr,
    ROUND: tl.constexpr,
    HIGH: tl.constexpr,
    SPLIT_PIXELS: tl.constexpr,
    MEAN_0: tl.constexpr,
    MEAN_1: tl.constexpr,
    MEAN_2: tl.constexpr,
    STD_0: tl.constexpr,
    STD_1: tl.constexpr,
    STD_2: tl.constexpr,
):
    """One merge block at one temporal slot; see `gpu_tiles`."""
    SIDE: tl.constexpr = PATCH * MERGE
    block = tl.program_id(0) // PER_UNIT
    slot = tl.program_id(0) % PER_UNIT
    table += block * (7 if SOURCES else 5)
    unit = tl.load(table)
    row = tl.load(table + 1)
    col = tl.load(table + 2)
    height = tl.maximum(tl.load(table + 3), 1)
    width = tl.maximum(tl.load(table + 4), 1)
    in_height, in_width = CANVAS_HEIGHT, CANVAS_WIDTH
    if SOURCES:
        in_height, in_width = tl.load(table + 5), tl.load(table + 6)
    present = unit >= 0
    frame = tl.minimum(tl.maximum(unit * PER_UNIT + slot, 0), NUM_FRAMES - 1)
    frame = (block // NUM_BLOCKS).to(tl.int64) * NUM_FRAMES + frame
    frames += frame * (3 * CANVAS_HEIGHT * CANVAS_WIDTH)
    # Strides of a channel and of a column serve both layouts of the pixels.
    OF_CHANNEL: tl.constexpr = 1 if CHANNELS_LAST else CANVAS_HEIGHT * CANVAS_WIDTH
    OF_COL: tl.constexpr = 3 if CHANNELS_LAST else 1

    lane = tl.arange(0, PADDED)
    out_rows, out_cols = row * SIDE + lane, col * SIDE + lane
    top, bottom = _window(row * SIDE, row * SIDE + SIDE - 1, in_height, height, RADIUS, ANTIALIAS)
    left, right = _window(col * SIDE, col * SIDE + SIDE - 1, in_width, width, RADIUS, ANTIALIAS)
    left = left // ALIGNMENT * ALIGNMENT
    # Padding has nothing to walk over.
    bottom, right = tl.where(present, bottom, top), tl.where(present, right, left)

    resized_0 = tl.zeros((PADDED, PADDED), tl.float32)
    resized_1 = tl.zeros((PADDED, PADDED), tl.float32)
    resized_2 = tl.zeros((PADDED, PADDED), tl.float32)
    total_x = tl.zeros((PADDED,), tl.float32)
    for first_col in range(left, right, TILE_COLS):
        cols = first_col + tl.arange(0, TILE_COLS)
        tall_0 = tl.zeros((PADDED, TILE_COLS), tl.float32)
        tall_1 = tl.zeros((PADDED, TILE_COLS), tl.float32)
        tall_2 = tl.zeros((PADDED, TILE_COLS), tl.float32)
        total_y = tl.zeros((PADDED,), tl.float32)
        for first_row in range(top, bottom, TILE_ROWS):
            rows = first_row + tl.arange(0, TILE_ROWS)
            weights = _weights(
                out_rows[:, None], rows[None, :], in_height, height, RADIUS, ANTIALIAS, HIGH
            )
            # Up to the canvas's width, which is known: the compiler then loads several at once.
            inside = (rows < in_height)[:, None] & (cols < CANVAS_WIDTH)[None, :]
            at = frames + (rows * (CANVAS_WIDTH * OF_COL))[:, None] + (cols * OF_COL)[None, :]
            x = tl.load(at, mask=inside, other=0)
            tall_0 = _add_dot(tall_0, weights, x, HIGH, SPLIT_PIXELS)
            x = tl.load(at + OF_CHANNEL, mask=inside, other=0)
            tall_1 = _add_dot(tall_1, weights, x, HIGH, SPLIT_PIXELS)
            x = tl.load(at + 2 * OF_CHANNEL, mask=inside, other=0)
            tall_2 = _add_dot(tall_2, weights, x, HIGH, SPLIT_PIXELS)
            total_y += tl.sum(weights, axis=1)
        weights = _weights(
            out_cols[None, :], cols[:, None], in_width, width, RADIUS, ANTIALIAS, HIGH
        )
        # Divided before it is halved: the sums of a large window pass what float16 holds.
        scale_y = (1.0 / tl.where(total_y == 0.0, 1.0, total_y))[:, None]
        tall_0, tall_1, tall_2 = tall_0 * scale_y, tall_1 * scale_y, tall_2 * scale_y
        if SOURCES and frames.dtype.element_ty.is_floating():
            # Columns beyond the source have no weight, but may be NaN.
            own = (cols < in_width)[None, :]
            tall_0 = tl.where(own, tall_0, 0.0)
            tall_1 = tl.where(own, tall_1, 0.0)
            tall_2 = tl.where(own, tall_2, 0.0)
        resized_0 = _add_dot(resized_0, tall_0, weights, HIGH, HIGH)
        resized_1 = _add_dot(resized_1, tall_1, weights, HIGH, HIGH)
        resized_2 = _add_dot(resized_2, tall_2, weights, HIGH, HIGH)
        total_x += tl.sum(weights, axis=0)

    y, x = lane[:, None], lane[None, :]
    token = y // PATCH * MERGE + x // PATCH
    within = y % PATCH * PATCH + x % PATCH
    AREA: tl.constexpr = PER_UNIT * PATCH * PATCH
    out += block.to(tl.int64) * (MERGE * MERGE * 3 * AREA) + slot * (PATCH * PATCH)
    at = out + token * (3 * AREA) + within
    mask = (y < SIDE) & (x < SIDE)
    total_x = total_x[None, :]
    _store(at, resized_0, total_x, MEAN_0, STD_0, ROUND, mask)
    _store(at + AREA, resized_1, total_x, MEAN_1, STD_1, ROUND, mask)
    _store(at + 2 * AREA, resized_2, total_x, MEAN_2, STD_2, ROUND, mask)
