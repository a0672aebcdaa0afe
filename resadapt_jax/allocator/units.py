"""Units: what receives one action each, temporal pairs of frames or single frames.

Frames and units belong to segments: all videos of a prompt are one, each image is one by itself,
and nothing of one sees anything of another. A segment begins at a whole pair.
"""

import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float, Int


def pair_mask(frame_mask: Bool[Array, "B F"]) -> Bool[Array, "B K"]:
    """Which temporal pairs hold at least one valid frame; K = ⌈F / 2⌉."""
    return _pairs(frame_mask).any(axis=2)


def pair_mean(
    values: Float[Array, "B F *rest"], frame_mask: Bool[Array, "B F"]
) -> Float[Array, "B K *rest"]:
    """Mean over each temporal pair's valid frames, 0 for a pair without any; K = ⌈F / 2⌉.

    A lone last frame stands for its pair, which is what repeating it would give.
    """
    mask = _pairs(frame_mask)
    mask = mask.reshape(mask.shape + (1,) * (values.ndim - 2))
    kept = jnp.where(mask, _pairs(values), 0.0)
    return kept.sum(axis=2) / jnp.maximum(mask.sum(axis=2), 1)


def pair_scales(
    scales: Float[Array, "B M F"], frame_mask: Bool[Array, "B F"]
) -> Float[Array, "B M K"]:
    """One scale per temporal pair from one per frame: their mean, as ResAdapt's released code."""
    return jnp.moveaxis(pair_mean(jnp.moveaxis(scales, 1, 2), frame_mask), 2, 1)


def places(segment_ids: Int[Array, "B F"], frame_mask: Bool[Array, "B F"]) -> Int[Array, "B F"]:
    """How many frames of its segment are before each; padding frames are not counted."""
    before = jnp.tri(segment_ids.shape[1], k=-1, dtype=bool)
    together = segment_ids[:, :, None] == segment_ids[:, None, :]
    return jnp.sum(together & before[None] & frame_mask[:, None, :], axis=2)


def follows(segment_ids: Int[Array, "*B K"]) -> Bool[Array, "*B K"]:
    """Which units come right after one of their own segment; the first of a row does not."""
    same = segment_ids[..., 1:] == segment_ids[..., :-1]
    return jnp.pad(same, [(0, 0)] * (same.ndim - 1) + [(1, 0)])


def _pairs(x):
    """[B F ...] to [B K 2 ...], an odd last frame beside a zero (False in a mask)."""
    odd = x.shape[1] % 2
    x = jnp.pad(x, ((0, 0), (0, odd)) + ((0, 0),) * (x.ndim - 2))
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:])
