"""The contract every backend keeps, and the checks made before any of them runs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from kernels.resize_patchify import reference
from kernels.resize_patchify.reference import Filter, Rounding

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def resize_patchify(
    frames: Num[Array, "F H W 3"] | Num[Array, "F 3 H W"],
    heights: Int[Array, "K"],
    widths: Int[Array, "K"],
    patch_unit: Int[Array, "P"],
    patch_row: Int[Array, "P"],
    patch_col: Int[Array, "P"],
    *,
    max_height: int,
    max_width: int,
    patch_size: int = 14,
    temporal_patch_size: int = 2,
    filter: Filter = "bicubic",
    antialias: bool = True,
    rounding: Rounding = "none",
    mean: tuple[float, float, float] = CLIP_MEAN,
    std: tuple[float, float, float] = CLIP_STD,
) -> Float[Array, "P D"]:
    """Resize each unit of a clip to its own size and write the patches a table asks for.

    out[p] = (resize(unit patch_unit[p])[:, patch at (patch_row[p], patch_col[p])] / 255 - μ) / σ.

    A unit is `temporal_patch_size` consecutive frames that share a size; an incomplete last unit
    repeats its last frame. The resize is separable: out = W_y · X · W_xᵀ with the weights of
    `reference.resize_weights`. Same size in and out is the identity.

    Contract of a backend:
      * static: shapes, dtype, and every keyword argument; traced: sizes and tables, so one
        compilation serves every allocation;
      * rows with patch_unit = -1 are exactly 0, whatever their other columns and the frames hold;
      * pixels of a unit that no row names never reach the output or a gradient, NaN included;
      * float32 accumulation, at most 0.02 grey level from a float64 evaluation;
      * differentiable in float pixels only: the adjoint of the linear map (zero where
        rounding="final" makes it a staircase). Sizes and tables are integers, without gradient.

    Args:
        frames: uint8, or floating point on the same scale of 0 to 255; never clamped unless
            `rounding` says so. Channels last, or first if the last axis is not 3 long.
        heights, widths: size of each unit in pixels, multiples of `patch_size`; 0 if unused.
        patch_unit: unit of each output row, -1 for padding.
        patch_row, patch_col: patch coordinates inside the resized unit.
        max_height, max_width: bounds of all sizes; the smaller, the cheaper. Traced sizes are not
            compared with them.
        filter: kernel of the resize, "bicubic" or "bilinear".
        antialias: widen the kernel when shrinking.
        rounding: "none" (ResAdapt), or "final": clamp to [0, 255], round half to even.
        mean, std: normalisation per channel, on the scale of 0 to 1.

    Returns:
        Patches, float32, features in the order (channel, time, y, x) of Qwen2-VL's processor.

    Raises:
        ValueError: shapes, dtypes or bounds that do not fit together.
    """
    _check(frames, heights, widths, patch_unit, patch_row, patch_col)
    if frames.shape[-1] != 3:
        frames = jnp.moveaxis(frames, 1, -1)
    if heights.shape[0] != -(-frames.shape[0] // temporal_patch_size):
        raise ValueError(
            f"{frames.shape[0]} frames make {-(-frames.shape[0] // temporal_patch_size)} units "
            f"of {temporal_patch_size}, but {heights.shape[0]} sizes were given"
        )
    if min(max_height, max_width) < 1 or max_height % patch_size or max_width % patch_size:
        raise ValueError(
            f"max_height and max_width must be multiples of {patch_size}, "
            f"got {max_height} and {max_width}"
        )
    for name, sizes, bound in (("heights", heights, max_height), ("widths", widths, max_width)):
        if not isinstance(sizes, jax.core.Tracer) and jnp.any(sizes > bound):
            raise ValueError(f"{name} must not exceed {bound}, got {sizes}")
    if filter not in ("bicubic", "bilinear"):
        raise ValueError(f"filter must be 'bicubic' or 'bilinear', got {filter!r}")
    if rounding not in ("none", "final"):
        raise ValueError(f"rounding must be 'none' or 'final', got {rounding!r}")
    return reference.resize_patchify(
        frames,
        heights,
        widths,
        patch_unit,
        patch_row,
        patch_col,
        patch_size=patch_size,
        temporal_patch_size=temporal_patch_size,
        max_height=max_height,
        max_width=max_width,
        filter=filter,
        antialias=antialias,
        rounding=rounding,
        mean=mean,
        std=std,
    )


def _check(frames, heights, widths, patch_unit, patch_row, patch_col):
    """Shapes and dtypes; all are static, so this works under jit as well."""
    if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[-1]) or 0 in frames.shape:
        raise ValueError(f"frames must be [F, H, W, 3] or [F, 3, H, W], got {frames.shape}")
    if frames.dtype != jnp.uint8 and not jnp.issubdtype(frames.dtype, jnp.floating):
        raise ValueError(f"frames must be uint8 or floating point, got {frames.dtype}")
    for group in (
        {"heights": heights, "widths": widths},
        {"patch_unit": patch_unit, "patch_row": patch_row, "patch_col": patch_col},
    ):
        shapes = {name: array.shape for name, array in group.items()}
        if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
            raise ValueError(f"need vectors of one length, got {shapes}")
        for name, array in group.items():
            if not jnp.issubdtype(array.dtype, jnp.integer):
                raise ValueError(f"{name} must be integer, got {array.dtype}")
