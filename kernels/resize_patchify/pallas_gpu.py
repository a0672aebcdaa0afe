"""The kernel in Pallas for CUDA GPUs, by Pallas' Triton lowering: nothing beyond jax is needed.

JAX has announced the removal of that lowering, so `lacks` looks for it; `triton` holds the same
program as a Triton kernel, which does not depend on it.
"""

from functools import cache, partial
from importlib import import_module
from math import prod

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Num

from kernels.resize_patchify.gpu_tiles import (
    ALIGNMENT,
    NUM_STAGES,
    NUM_WARPS,
    block_table,
    padded_side,
    splits_pixels,
    tile,
    too_large,
)
from kernels.resize_patchify.layout import Layout, canvas_of
from kernels.resize_patchify.spec import PatchSpec
from kernels.resize_patchify.weights import unnormalised, window


def resize_patchify(
    frames: Num[Array, "B F H W 3"] | Num[Array, "B F 3 H W"],
    layout: Layout,
    spec: PatchSpec,
    *,
    interpret: bool = False,
) -> Float[Array, "B P D"]:
    """See `kernels.resize_patchify.api.resize_patchify`.

    Args:
        interpret: run on the CPU what the kernel would do, for tests.
    """
    plt = _lowering()
    table = block_table(layout)
    tokens = len(table) * spec.merge_size**2
    patches = pl.pallas_call(
        partial(_kernel, spec=spec),
        out_shape=jax.ShapeDtypeStruct((tokens, spec.features), spec.output_dtype),
        grid=(len(table) * spec.temporal_patch_size,),
        compiler_params=plt.CompilerParams(num_warps=NUM_WARPS, num_stages=NUM_STAGES),
        interpret=interpret,
        name="resize_patchify",
    )(table, frames)
    return patches.reshape(frames.shape[0], -1, spec.features)


def lacks(frames_shape: tuple[int, ...], spec: PatchSpec) -> str | None:
    """What keeps the kernel from a call: the lowering, or a limit of its own."""
    if _lowering() is None:
        return f"needs Pallas' Triton lowering, which jax {jax.__version__} is without"
    if 2**31 <= prod(frames_shape) <= 2**32:
        # Between these Pallas computes the offsets of bytes with the wrong sign.
        return f"cannot address {prod(frames_shape)} pixel values, split the batch"
    return too_large(spec)


@cache
def _lowering():
    try:
        return import_module("jax.experimental.pallas.triton")
    except ImportError:
        return None


def _kernel(table, frames, out, *, spec):
    """One merge block at one temporal slot; see `gpu_tiles`."""
    channels_last = frames.shape[-1] == 3
    canvas = canvas_of(frames.shape)
    side, padded = spec.block_size, padded_side(spec)
    num_blocks = table.shape[0] // frames.shape[0]
    block = lax.div(pl.program_id(0), spec.temporal_patch_size)
    slot = lax.rem(pl.program_id(0), spec.temporal_patch_size)
    unit, row, col, height, width, *source = (table[block, k] for k in range(table.shape[1]))
    in_height, in_width = source or canvas
    present = unit >= 0
    height, width = jnp.maximum(height, 1), jnp.maximum(width, 1)
    clip = lax.div(block, num_blocks)
    frame = jnp.clip(unit * spec.temporal_patch_size + slot, 0, frames.shape[1] - 1)

    how = {"filter": spec.filter, "antialias": spec.antialias}
    lane = jnp.arange(padded, dtype=jnp.int32)
    out_rows, out_cols = row * side + lane, col * side + lane
    top, bottom = window(row * side, row * side + side - 1, in_height, height, **how)
    left, right = window(col * side, col * side + side - 1, in_width, width, **how)
    left = lax.div(left, ALIGNMENT) * ALIGNMENT
    high = spec.precision == "high"
    tile_rows, tile_cols = tile(spec)

    def weights(i, j, in_size, out_size):
        weights = unnormalised(i, j, in_size, out_size, **how)
        return weights if high else weights.astype(jnp.float16).astype(jnp.float32)

    def pixels(channel, rows, cols):
        at = (rows[:, None], cols[None, :])
        at = (*at, channel) if channels_last else (channel, *at)
        # Up to the canvas's width, which is known: the compiler then loads several at once.
        inside = (rows < in_height)[:, None] & (cols < canvas[1])[None, :]
        return _lowering().load(frames.at[clip, frame, *at], mask=inside, other=0)

    def over_rows(k, sums, cols):
        *tall, total = sums
        rows = top + k * tile_rows + jnp.arange(tile_rows, dtype=jnp.int32)
        vertical = weights(out_rows[:, None], rows[None, :], in_height, height)
        split = high, splits_pixels(frames.dtype, spec)
        tall = [_add_dot(a, vertical, pixels(c, rows, cols), *split) for c, a in enumerate(tall)]
        return *tall, total + jnp.sum(vertical, axis=1)

    def over_cols(k, sums):
        *resized, total = sums
        cols = left + k * tile_cols + jnp.arange(tile_cols, dtype=jnp.int32)
        zeros = [jnp.zeros((padded, tile_cols), jnp.float32) for _ in range(3)]
        *tall, tall_total = lax.fori_loop(
            0,
            jnp.where(present, pl.cdiv(bottom - top, tile_rows), 0),
            partial(over_rows, cols=cols),
            (*zeros, jnp.zeros(padded, jnp.float32)),
        )
        horizontal = weights(out_cols[None, :], cols[:, None], in_width, width)
        # Divided before it is halved: the sums of a large window pass what float16 holds.
        scale = _reciprocal(tall_total)[:, None]
        tall = [a * scale for a in tall]
        if source and jnp.issubdtype(frames.dtype, jnp.floating):
            # Columns beyond the source have no weight, but may be NaN.
            tall = [jnp.where((cols < in_width)[None, :], a, 0.0) for a in tall]
        resized = [
            _add_dot(a, b, horizontal, high, high) for a, b in zip(resized, tall, strict=True)
        ]
        return *resized, total + jnp.sum(horizontal, axis=0)

    zeros = [jnp.zeros((padded, padded), jnp.float32) for _ in range(3)]
    *resized, total = lax.fori_loop(
        0,
        jnp.where(present, pl.cdiv(right - left, tile_cols), 0),
        over_cols,
        (*zeros, jnp.zeros(padded, jnp.float32)),
    )
    total = total[None, :]
    for channel, values in enumerate(resized):
        values = _normalised(values * _reciprocal(total), channel, spec)
        # Padding has no weights.
        values = jnp.where(total == 0.0, 0.0, values).astype(out.dtype)
        _store(out, values, block, slot, channel, spec)


def _store(out, values, block, slot, channel, spec):
    """[y, x] of a block to its patches, features in the order (channel, time, y, x)."""
    p, m, per_unit = spec.patch_size, spec.merge_size, spec.temporal_patch_size
    lane = jnp.arange(values.shape[0], dtype=jnp.int32)
    y, x = lane[:, None], lane[None, :]
    token = block * m**2 + lax.div(y, p) * m + lax.div(x, p)
    feature = ((channel * per_unit + slot) * p + lax.rem(y, p)) * p + lax.rem(x, p)
    inside = (y < spec.block_size) & (x < spec.block_size)
    _lowering().store(out.at[token, feature], values, mask=inside)


def _normalised(values, channel, spec):
    if spec.rounding == "final":
        values = _round(jnp.clip(values, 0.0, 255.0))
    return (values - 255.0 * spec.mean[channel]) * (1.0 / (255.0 * spec.std[channel]))


def _round(x):
    """Half to even, x not negative; jnp.round has no rule in this lowering."""
    up = (x + 0.5).astype(jnp.int32)
    is_half = up.astype(jnp.float32) == x + 0.5
    return jnp.where(is_half, up - up % 2, up).astype(jnp.float32)


def _add_dot(total, a, b, split_a, split_b):
    """total + a · b in half precision; a split factor is the sum of two halves."""

    def dot(a, b):
        a, b = a.astype(jnp.float16), b.astype(jnp.float16)
        return jnp.dot(a, b, precision=lax.Precision.DEFAULT, preferred_element_type=jnp.float32)

    def rest(x):
        return x.astype(jnp.float32) - x.astype(jnp.float16).astype(jnp.float32)

    total += dot(a, b)
    if split_a:
        total += dot(rest(a), b)
    if split_b:
        total += dot(a, rest(b))
    return total


def _reciprocal(total):
    return 1.0 / jnp.where(total == 0.0, 1.0, total)
