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
    return _angles(position_ids, axis, inverse_frequencies(head_dim, theta))


def interleaved_mrope_angles(
    position_ids: Int[Array, "B 3 T"], head_dim: int, theta: float, section: tuple[int, ...]
) -> Float[Array, "B T A"]:
    """Angles of interleaved mRoPE; ``A = head_dim / 2 = sum(section)``, float32.

    Frequencies 1, 4, 7, ... turn with the row, ``section[1]`` of them; 2, 5, 8, ... with the
    column, ``section[2]`` of them; all others with the temporal position.
    """
    axis = np.zeros(sum(section), int)
    for index in (1, 2):
        axis[index : 3 * section[index] : 3] = index
    return _angles(position_ids, axis, inverse_frequencies(head_dim, theta))


def _angles(
    position_ids: Int[Array, "B 3 T"], axis: Int[np.ndarray, " A"], frequencies: np.ndarray
) -> Float[Array, "B T A"]:
    """Every frequency times the position on its axis."""
    positions = jnp.swapaxes(position_ids.astype(jnp.float32), 1, 2)[:, :, axis]
    return positions * frequencies[None, None, :]


def rotate(
    x: Float[Array, "*N H D"], cos: Float[Array, "*N A"], sin: Float[Array, "*N A"]
) -> Float[Array, "*N H D"]:
    """Turns the pairs ``(x[i], x[i + D/2])`` of every head; ``A = D / 2``."""
    cos, sin = cos[..., None, :], sin[..., None, :]
    first, second = jnp.split(x, 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
