"""Frames to the vision tower's patches: two resizes to a square, inside jit."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from kernels.resize_patchify import PatchSpec, resize_patchify
from kernels.resize_patchify.weights import resize_weights
from resadapt_jax.typing import Array, Float, Int, UInt8

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
    frames: UInt8[Array, "B height width 3"],
    index: Int[Array, " B"],
    sizes: tuple[tuple[int, int], ...],
    config: PreprocessConfig,
    patch_size: int,
) -> Float[Array, "B rows cols C"]:
    """Patches of ``(resize(resize(frame, longest edge), square) / 255 - μ) / σ``.

    The aspect is not kept. Levels are rounded and clipped to 0 ... 255 after each pass of each
    resize, horizontal before vertical, as PIL and torchvision do with bytes; the last vertical
    pass is that of `resize_patchify`, which normalises and patchifies as it goes.

    Args:
        index: which of ``sizes`` a frame has.
        sizes: how many rows and columns may be picture, from the top left.
        patch_size: side of a patch; it divides the square's.
    """
    first = np.array([scaled_size(*size, config.longest_edge) for size in sizes])
    (rows, cols), (heights, widths) = (
        jnp.asarray(table)[index].T for table in (np.array(sizes), first)
    )
    most_rows, most_cols = first.max(axis=0).tolist()
    square = jnp.full(len(frames), config.size)
    levels = frames.astype(jnp.float32)
    levels = _resized(levels, 2, cols, widths, most_cols, config.filter)
    levels = _resized(levels, 1, rows, heights, most_rows, config.filter)
    levels = _resized(levels, 2, widths, square, config.size, config.filter)
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
    sources = {"source_heights": heights, "source_widths": square}
    patches = resize_patchify(levels, square, square, spec, **sources).patches
    return patches.reshape(len(frames), patches_a_side, patches_a_side, spec.features)


def scaled_size(height: int, width: int, longest_edge: int) -> tuple[int, int]:
    """The size with that longest edge and, nearly, the same aspect; the other side made even."""
    aspect = width / height
    if width >= height:
        other = int(longest_edge / aspect)
        return max(other + other % 2, 1), longest_edge
    other = int(longest_edge * aspect)
    return longest_edge, max(other + other % 2, 1)


def _resized(
    levels: Array, axis: int, sizes: Array, new_sizes: Array, most: int, filter: FrameFilter
) -> Array:
    """One antialiased pass from whole grey levels to whole grey levels; ``most`` bounds the sizes.

    Levels beyond a new size are 0.
    """

    def resize(frame, size, new_size):
        weights = resize_weights(size, new_size, most, levels.shape[axis], filter=filter)
        return _apply("yY,YXc->yXc" if axis == 1 else "xX,YXc->Yxc", weights, frame)

    return _whole(jax.vmap(resize)(levels, sizes, new_sizes))


def _apply(product: str, weights: Array, levels: Array) -> Array:
    # Full float32 also where products of matrices are cheaper in less: a level is 1 in 255.
    return jnp.einsum(product, weights, levels, precision=jax.lax.Precision.HIGHEST)


def _whole(levels: Array) -> Array:
    return jnp.floor(jnp.clip(levels, 0.0, 255.0) + 0.5)
