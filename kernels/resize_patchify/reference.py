"""The definition, in jnp: two banded matrix products per unit, then one gather.

Sizes are traced, so every weight matrix has the static shape of the largest sizes and its rows and
columns beyond the traced ones are zero. The map is linear in the pixels and JAX transposes it as it
is.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from kernels.resize_patchify.layout import Layout, canvas_of
from kernels.resize_patchify.spec import PatchSpec
from kernels.resize_patchify.weights import resize_weights

_CHUNK_BYTES = 1 << 26  # resized float32 pixels of the units computed at once


def resize_patchify(
    frames: Num[Array, "B F H W 3"] | Num[Array, "B F 3 H W"], layout: Layout, spec: PatchSpec
) -> Float[Array, "B P D"]:
    """See `kernels.resize_patchify.api.resize_patchify`; float32 sums whatever the precision."""
    batch, num_units = layout.heights.shape
    units = jax.vmap(lambda clip: _units(clip, spec))(frames)
    units = units.reshape(batch * num_units, *units.shape[2:])

    def one_unit(unit):
        return _unit_blocks(*unit, spec)

    unit_bytes = 4 * 3 * spec.temporal_patch_size * spec.max_height * spec.max_width
    at_once = max(1, min(len(units), _CHUNK_BYTES // unit_bytes))
    sizes = layout.heights, layout.widths, *layout.source_sizes(canvas_of(frames.shape))
    blocks = lax.map(one_unit, (units, *(x.ravel() for x in sizes)), batch_size=at_once)
    rows, cols = blocks.shape[1:3]
    blocks = blocks.reshape(batch, num_units * rows * cols, *blocks.shape[3:])
    index = (layout.block_unit * rows + layout.block_row) * cols + layout.block_col
    index = jnp.maximum(index, 0)[:, :, None, None]
    blocks = jnp.take_along_axis(blocks, index, axis=1, mode="clip")
    # Select last: a padding row may have gathered from an unused frame, which may hold anything.
    present = (layout.block_unit >= 0)[:, :, None, None]
    blocks = jnp.where(present, _normalised(blocks, spec), 0.0)
    return blocks.reshape(batch, -1, spec.features).astype(spec.output_dtype)


def patchify(
    frames: Num[Array, "F H W 3"] | Num[Array, "F 3 H W"], spec: PatchSpec
) -> Float[Array, "P D"]:
    """See `kernels.resize_patchify.api.patchify`."""
    units = _units(frames, spec).astype(jnp.float32)
    blocks = jax.vmap(lambda unit: _cut(_rounded(jnp.moveaxis(unit, -1, 2), spec), spec))(units)
    return _normalised(blocks, spec).reshape(-1, spec.features).astype(spec.output_dtype)


def _units(frames, spec):
    """[K, frames of a unit, H, W, 3]; an incomplete last unit repeats its last frame."""
    per_unit = spec.temporal_patch_size
    num_units = -(-len(frames) // per_unit)
    frames = frames[jnp.minimum(jnp.arange(num_units * per_unit), len(frames) - 1)]
    if frames.shape[-1] != 3:
        frames = jnp.moveaxis(frames, 1, -1)
    return frames.reshape(num_units, per_unit, *frames.shape[1:])


def _normalised(blocks, spec):
    """One mean and one deviation per feature; features run (channel, time, y, x)."""
    repeat = spec.temporal_patch_size * spec.patch_size**2
    mean, std = (
        jnp.repeat(255.0 * jnp.asarray(v, jnp.float32), repeat) for v in (spec.mean, spec.std)
    )
    lead = (1,) * (blocks.ndim - 1)
    return (blocks - mean.reshape(*lead, -1)) / std.reshape(*lead, -1)


def _unit_blocks(pixels, height, width, source_height, source_width, spec):
    """All blocks of one unit's largest grid, [rows, cols, patches, features], not normalised."""
    num_frames, canvas_height, canvas_width, _ = pixels.shape
    how = {"filter": spec.filter, "antialias": spec.antialias}
    vertical = resize_weights(source_height, height, spec.max_height, canvas_height, **how)
    horizontal = resize_weights(source_width, width, spec.max_width, canvas_width, **how)
    if jnp.issubdtype(pixels.dtype, jnp.floating):
        # What lies beyond the source has no weight, but may be NaN.
        rows = jnp.arange(canvas_height)[:, None, None] < source_height
        cols = jnp.arange(canvas_width)[None, :, None] < source_width
        pixels = jnp.where((rows & cols)[None], pixels, 0)
    pixels = pixels.astype(jnp.float32)
    high = lax.Precision.HIGHEST
    pixels = jnp.einsum("yY,tYXc->tycX", vertical, pixels, precision=high)
    pixels = jnp.einsum("tycX,xX->tycx", pixels, horizontal, precision=high)
    return _cut(_rounded(pixels, spec), spec)


def _rounded(pixels, spec):
    return jnp.round(jnp.clip(pixels, 0.0, 255.0)) if spec.rounding == "final" else pixels


def _cut(pixels, spec):
    """Pixels of a unit, [time, y, 3, x], in blocks: [rows, cols, patches, features]."""
    num_frames, height, _, width = pixels.shape
    p, m = spec.patch_size, spec.merge_size
    rows, cols = height // spec.block_size, width // spec.block_size
    pixels = pixels.reshape(num_frames, rows, m, p, 3, cols, m, p)
    return pixels.transpose(1, 5, 2, 6, 4, 0, 3, 7).reshape(rows, cols, m * m, -1)
