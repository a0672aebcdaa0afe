"""Frames to the vision tower's pixels: two resizes to a square, inside jit."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from kernels.resize_patchify.weights import resize_weights
from resadapt_jax.typing import Array, Float, UInt8

FrameFilter = Literal["lanczos", "bicubic"]
"""What the checkpoints' settings name, or what transformers takes instead off the CPU."""


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
    filter: FrameFilter = "lanczos"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


def preprocess(
    frames: UInt8[Array, "B height width 3"], config: PreprocessConfig
) -> Float[Array, "B size size 3"]:
    """``(resize(resize(frame, longest edge), square) / 255 - μ) / σ``; the aspect is not kept.

    Levels are rounded and clipped to 0 ... 255 after each pass of each resize, horizontal before
    vertical, as PIL and torchvision do with bytes.
    """
    height, width = scaled_size(*frames.shape[1:3], config.longest_edge)
    levels = resize(frames.astype(jnp.float32), height, width, config.filter)
    levels = resize(levels, config.size, config.size, config.filter)
    mean, std = (255 * jnp.asarray(x)[None, None, None, :] for x in (config.mean, config.std))
    return (levels - mean) / std


def scaled_size(height: int, width: int, longest_edge: int) -> tuple[int, int]:
    """The size with that longest edge and, nearly, the same aspect; the other side made even."""
    aspect = width / height
    if width >= height:
        other = int(longest_edge / aspect)
        return max(other + other % 2, 1), longest_edge
    other = int(longest_edge * aspect)
    return longest_edge, max(other + other % 2, 1)


def resize(
    levels: Float[Array, "B Y X 3"], height: int, width: int, filter: FrameFilter
) -> Float[Array, "B height width 3"]:
    """Antialiased resize of whole grey levels to whole grey levels."""
    if levels.shape[2] != width:
        weights = resize_weights(levels.shape[2], width, width, filter=filter)
        levels = _whole(_apply("xX,bYXc->bYxc", weights, levels))
    if levels.shape[1] != height:
        weights = resize_weights(levels.shape[1], height, height, filter=filter)
        levels = _whole(_apply("yY,bYxc->byxc", weights, levels))
    return levels


def _apply(product: str, weights: Array, levels: Array) -> Array:
    # Full float32 also where products of matrices are cheaper in less: a level is 1 in 255.
    return jnp.einsum(product, weights, levels, precision=jax.lax.Precision.HIGHEST)


def _whole(levels: Array) -> Array:
    return jnp.floor(jnp.clip(levels, 0.0, 255.0) + 0.5)
