"""Frames to the vision tower's patches: two resizes to a square, inside jit."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from kernels.resize_patchify import PatchSpec, resize_patchify
from kernels.resize_patchify.weights import resize_weights
from resadapt_jax.typing import Array, Float, UInt8

FrameFilter = Literal["lanczos", "bicubic"]
"""What the checkpoints' settings name, or what transformers takes instead off the CPU."""

DEFAULT_FILTER: FrameFilter = "lanczos"
"""What the checkpoints' settings name."""


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How a frame becomes a square of pixels.

    Attributes:
        size: side of the square.
        longest_edge: longer side after the first resize, which keeps the aspect.
        filter: of both resizes, antialiased.
        mean, std: normalisation per channel, on the scale of 0 to 1.
    """

    size: int = 512
    longest_edge: int = 512
    filter: FrameFilter = DEFAULT_FILTER
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


def preprocess(
    frames: UInt8[Array, "B height width 3"], config: PreprocessConfig, patch_size: int
) -> Float[Array, "B rows cols C"]:
    """Patches of ``(resize(resize(frame, longest edge), square) / 255 - μ) / σ``.

    The aspect is not kept. Levels are rounded and clipped to 0 ... 255 after each pass of each
    resize, horizontal before vertical, as PIL and torchvision do with bytes; the last vertical
    pass is that of `resize_patchify`, which normalises and patchifies as it goes.

    Args:
        patch_size: side of a patch; it divides the square's.
    """
    height, width = scaled_size(*frames.shape[1:3], config.longest_edge)
    levels = frames.astype(jnp.float32)
    for axis, side in ((2, width), (1, height), (2, config.size)):
        levels = _resized(levels, axis, side, config.filter)
    patches_a_side = config.size // patch_size
    spec = PatchSpec(
        capacity=len(frames) * patches_a_side**2,
        max_height=config.size,
        max_width=config.size,
        patch_size=patch_size,
        merge_size=1,
        temporal_patch_size=1,
        filter=config.filter,
        rounding="final",
        precision="high",
        mean=config.mean,
        std=config.std,
    )
    sizes = jnp.full(len(frames), config.size)
    patches = resize_patchify(levels, sizes, sizes, spec).patches
    return patches.reshape(len(frames), patches_a_side, patches_a_side, spec.features)


def scaled_size(height: int, width: int, longest_edge: int) -> tuple[int, int]:
    """The size with that longest edge and, nearly, the same aspect; the other side made even."""
    aspect = width / height
    if width >= height:
        other = int(longest_edge / aspect)
        return max(other + other % 2, 1), longest_edge
    other = int(longest_edge * aspect)
    return longest_edge, max(other + other % 2, 1)


def _resized(levels: Array, axis: int, size: int, filter: FrameFilter) -> Array:
    """One antialiased pass from whole grey levels to whole grey levels."""
    if levels.shape[axis] == size:
        return levels
    weights = resize_weights(levels.shape[axis], size, size, filter=filter)
    return _whole(_apply("yY,bYxc->byxc" if axis == 1 else "xX,bYXc->bYxc", weights, levels))


def _apply(product: str, weights: Array, levels: Array) -> Array:
    # Full float32 also where products of matrices are cheaper in less: a level is 1 in 255.
    return jnp.einsum(product, weights, levels, precision=jax.lax.Precision.HIGHEST)


def _whole(levels: Array) -> Array:
    return jnp.floor(jnp.clip(levels, 0.0, 255.0) + 0.5)
