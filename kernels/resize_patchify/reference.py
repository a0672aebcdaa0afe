"""The definition, in jnp: two banded matrix products per unit, then one gather.

Sizes are traced, so every weight matrix has the static shape of the largest size and its rows
beyond the traced size are zero. The map is linear in the pixels and JAX transposes it as it is.
"""

from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num

Filter = Literal["bicubic", "bilinear"]
Rounding = Literal["none", "final"]

_CHUNK_BYTES = 1 << 26  # resized float32 pixels of the units computed at once


def _triangle(x):
    return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def _cubic(x, a):
    x = jnp.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = a * (((x - 5.0) * x + 8.0) * x - 4.0)
    return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


def _lanczos(x):
    """sinc(x) · sinc(x / 3) for |x| < 3."""
    return jnp.where(jnp.abs(x) < 3.0, jnp.sinc(x) * jnp.sinc(x / 3.0), 0.0)


def resize_weights(
    in_size: int,
    out_size: Int[Array, ""],
    max_out_size: int,
    *,
    filter: Filter | Literal["lanczos"] = "bicubic",
    antialias: bool = True,
) -> Float[Array, "max_out_size in_size"]:
    """W_ij = k((j - c_i)/f) / Σ_j, c_i = (i + ½) r - ½, r = in/out, f = max(r, 1) if antialias.

    Antialiased, the window is cut at the border and renormalised and the cubic has a = -0.5;
    without, the border pixel is repeated and a = -0.75: PIL and torch do so in each case. Rows
    from `out_size` on are zero. Lanczos, which the op does without, exists antialiased only.
    """
    if filter == "lanczos" and not antialias:
        raise ValueError("lanczos is defined with antialias only")
    border = 0 if antialias else 2
    i = jnp.arange(max_out_size, dtype=jnp.int32)[:, None]
    j = jnp.arange(-border, in_size + border, dtype=jnp.int32)[None, :]
    out_size = jnp.maximum(out_size, 1).astype(jnp.int32)
    # 2 · out · (j - c_i), exact in integers: float32 coordinates alone cost 0.01 grey level.
    offset = (2 * j + 1) * out_size - (2 * i + 1) * in_size
    support = jnp.maximum(out_size, in_size) if antialias else out_size
    x = offset.astype(jnp.float32) / (2 * support).astype(jnp.float32)
    if filter == "bilinear":
        weights = _triangle(x)
    elif filter == "lanczos":
        weights = _lanczos(x)
    else:
        weights = _cubic(x, -0.5 if antialias else -0.75)
    weights = jnp.where(i < out_size, weights, 0.0)
    if antialias:
        total = jnp.sum(weights, axis=1, keepdims=True)
        return weights / jnp.where(total == 0.0, 1.0, total)
    inside = weights[:, border:-border]
    inside = inside.at[:, 0].add(jnp.sum(weights[:, :border], axis=1))
    return inside.at[:, -1].add(jnp.sum(weights[:, -border:], axis=1))


def _unit_patches(pixels, height, width, *, patch_size, max_rows, max_cols, rounding, **how):
    """Every patch of one unit's largest grid, [max_rows, max_cols, 3·T·p·p], not normalised."""
    num_frames, in_height, in_width, _ = pixels.shape
    p = patch_size
    vertical = resize_weights(in_height, height, max_rows * p, **how)
    horizontal = resize_weights(in_width, width, max_cols * p, **how)
    pixels = pixels.astype(jnp.float32)
    high = lax.Precision.HIGHEST
    pixels = jnp.einsum("yY,tYXc->tycX", vertical, pixels, precision=high)
    pixels = jnp.einsum("tycX,xX->tycx", pixels, horizontal, precision=high)
    if rounding == "final":
        pixels = jnp.round(jnp.clip(pixels, 0.0, 255.0))
    pixels = pixels.reshape(num_frames, max_rows, p, 3, max_cols, p)
    return pixels.transpose(1, 4, 3, 0, 2, 5).reshape(max_rows, max_cols, -1)


def resize_patchify(
    frames: Num[Array, "F H W 3"],
    heights: Int[Array, "K"],
    widths: Int[Array, "K"],
    patch_unit: Int[Array, "P"],
    patch_row: Int[Array, "P"],
    patch_col: Int[Array, "P"],
    *,
    patch_size: int,
    temporal_patch_size: int,
    max_height: int,
    max_width: int,
    filter: Filter,
    antialias: bool,
    rounding: Rounding,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Float[Array, "P D"]:
    """See `kernels.resize_patchify.api.resize_patchify`."""
    num_units, per_unit = heights.shape[0], temporal_patch_size
    # An incomplete last unit repeats its last frame.
    last = jnp.minimum(jnp.arange(num_units * per_unit), frames.shape[0] - 1)
    units = frames[last].reshape(num_units, per_unit, *frames.shape[1:])
    max_rows, max_cols = max_height // patch_size, max_width // patch_size

    def one_unit(unit):
        return _unit_patches(
            *unit,
            patch_size=patch_size,
            max_rows=max_rows,
            max_cols=max_cols,
            rounding=rounding,
            filter=filter,
            antialias=antialias,
        )

    unit_bytes = 4 * 3 * per_unit * max_height * max_width
    at_once = max(1, min(num_units, _CHUNK_BYTES // unit_bytes))
    patches = lax.map(one_unit, (units, heights, widths), batch_size=at_once)
    patches = patches.reshape(num_units * max_rows * max_cols, -1)
    index = (patch_unit * max_rows + patch_row) * max_cols + patch_col
    patches = patches.at[index].get(mode="clip")
    # One mean and one deviation per feature; features run (channel, time, y, x).
    repeat = per_unit * patch_size**2
    mean, std = (jnp.repeat(255.0 * jnp.asarray(v, jnp.float32), repeat) for v in (mean, std))
    normalised = (patches - mean[None, :]) / std[None, :]
    # Select last: a padding row may have gathered from an unused frame, which may hold anything.
    return jnp.where((patch_unit >= 0)[:, None], normalised, 0.0)
