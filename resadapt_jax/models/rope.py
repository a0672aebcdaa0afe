"""Rotary position embeddings: two-dimensional for vision, multimodal (mRoPE) for text."""

import jax.numpy as jnp
import numpy as np

from resadapt_jax.typing import Array, Float, Int


def inverse_frequencies(dim: int, theta: float) -> np.ndarray:
    """``θ^(-2i/dim)`` for ``i < dim/2``, float32."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (np.float32(1.0) / np.float32(theta) ** exponents).astype(np.float32)


def vision_angles(
    row: Int[Array, " P"], col: Int[Array, " P"], head_dim: int, theta: float
) -> Float[Array, "P A"]:
    """Angles ``[row · f, col · f]`` of each patch; ``A = head_dim / 2``, float32."""
    frequencies = inverse_frequencies(head_dim // 2, theta)[None, :]
    row_angles = row.astype(jnp.float32)[:, None] * frequencies
    col_angles = col.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([row_angles, col_angles], axis=-1)


def mrope_angles(
    position_ids: Int[Array, "B 3 T"], head_dim: int, theta: float, section: tuple[int, ...]
) -> Float[Array, "B T A"]:
    """Angles of chunked mRoPE; ``A = head_dim / 2 = sum(section)``, float32.

    The first ``section[0]`` frequencies turn with the temporal position, the next with the row,
    the next with the column.
    """
    axis = np.repeat(np.arange(len(section)) % 3, section)
    positions = jnp.swapaxes(position_ids.astype(jnp.float32), 1, 2)[:, :, axis]
    return positions * inverse_frequencies(head_dim, theta)[None, None, :]


def rotate(
    x: Float[Array, "*N H D"], cos: Float[Array, "*N A"], sin: Float[Array, "*N A"]
) -> Float[Array, "*N H D"]:
    """Turns the pairs ``(x[i], x[i + D/2])`` of every head; ``A = D / 2``."""
    cos, sin = cos[..., None, :], sin[..., None, :]
    first, second = jnp.split(x, 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
