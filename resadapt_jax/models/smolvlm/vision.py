"""The vision tower and its connector: square frames to a few tokens each."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kernels.segment_attention import Places, attend_in_places
from resadapt_jax.models.layers import layer_norm, linear
from resadapt_jax.models.partition import BATCH, constrain
from resadapt_jax.models.smolvlm.config import SmolVLMConfig, VisionConfig
from resadapt_jax.models.stacking import StackedLayers, scan_layers
from resadapt_jax.typing import Array, Bool, Float, Int, Params


def encode(
    params: Params,
    config: SmolVLMConfig,
    patches: Float[Array, "B rows cols C"],
    patch_mask: Bool[Array, "B rows cols"] | None = None,
) -> Float[Array, "B U D"]:
    """Encodes frames into tokens of the text tower's width.

    Args:
        params: the whole model's tree.
        config: the whole model's architecture.
        patches: normalised, features (channel, y, x); rows and columns multiples of
            ``scale_factor``.
        patch_mask: patches to encode, a rectangle at the upper left of each frame; the others are
            seen by none of them. ``None`` encodes all.

    Returns:
        ``rows * cols / scale_factor²`` tokens per frame in raster order.
    """
    params = params["model"]
    x = hidden_states(params["vision_model"], config.vision, patches, patch_mask)
    x = pixel_shuffle(x.reshape(*patches.shape[:3], -1), config.scale_factor)
    return linear(params["connector"]["modality_projection"]["proj"], x)


def hidden_states(
    params: Params,
    config: VisionConfig,
    patches: Float[Array, "B rows cols C"],
    patch_mask: Bool[Array, "B rows cols"] | None = None,
) -> Float[Array, "B P D"]:
    """What the tower gives the connector, for the tower's own parameters and config."""
    if patch_mask is None:
        patch_mask = jnp.ones(patches.shape[:3], bool)
    x = embed_patches(params["embeddings"], config, patches, patch_mask)
    places = Places.of_segments(patch_mask.reshape(len(x), -1).astype(jnp.int32))

    layers = params["encoder"]["layers"]

    @partial(config.compute.wrap, scanned=isinstance(layers, StackedLayers))
    def run(params, x):
        return layer(params, config, x, places)

    def step(params, x, _):
        return constrain(run(params, x), BATCH), None

    x, _ = scan_layers(step, layers, constrain(x, BATCH), config.num_hidden_layers)
    return layer_norm(params["post_layernorm"], x, config.layer_norm_eps)


def embed_patches(
    params: Params,
    config: VisionConfig,
    patches: Float[Array, "B rows cols C"],
    patch_mask: Bool[Array, "B rows cols"],
) -> Float[Array, "B P D"]:
    """The patch convolution, as a matrix product, plus the learned positions."""
    conv = params["patch_embedding"]
    x = jnp.where(patch_mask[:, :, :, None], patches, 0).astype(conv["weight"].dtype)
    x = x.reshape(len(x), -1, x.shape[-1])
    x = linear({"weight": conv["weight"].reshape(config.hidden_size, -1), "bias": conv["bias"]}, x)
    ids = position_ids(patch_mask, config.patches_per_side).reshape(len(x), -1)
    return x + params["position_embedding"]["weight"][ids]


def position_ids(patch_mask: Bool[Array, "B rows cols"], side: int) -> Int[Array, "B rows cols"]:
    """The entry of the ``side × side`` position table of each patch; 0 where masked out.

    A frame of any number of patches stretches over the whole table: row ``i`` of ``n`` has the
    fractional coordinate ``i / n`` and takes the table's row whose interval holds it.
    """
    _, rows, cols = patch_mask.shape
    row = jnp.asarray(bucket_table(rows, side))[patch_mask[:, :, 0].sum(axis=1)]
    col = jnp.asarray(bucket_table(cols, side))[patch_mask[:, 0, :].sum(axis=1)]
    return jnp.where(patch_mask, row[:, :, None] * side + col[:, None, :], 0)


def bucket_table(longest: int, side: int) -> Int[np.ndarray, "longest+1 longest"]:
    """``[n, i]``: how many of the boundaries ``1/side, 2/side, ...`` are at most ``i · (1/n)``.

    A coordinate on a boundary belongs above it, and none reaches 1. In the float32 arithmetic of
    the reference, to the last bit: where ``n`` and ``side`` agree a coordinate may fall just short
    of its boundary, and the checkpoints were trained so.
    """
    count = np.maximum(np.arange(longest + 1, dtype=np.float32), 1)[:, None]
    coordinate = np.arange(longest, dtype=np.float32)[None, :] * (np.float32(1) / count)
    coordinate = np.minimum(coordinate, np.float32(1 - 1e-6))
    boundaries = np.arange(1 / side, 1.0, 1 / side).astype(np.float32)
    return np.searchsorted(boundaries, coordinate, side="right").astype(np.int32)


def layer(
    params: Params, config: VisionConfig, x: Float[Array, "B P D"], places: Places
) -> Float[Array, "B P D"]:
    """One pre-norm transformer layer, each valid patch attending to all valid ones."""
    attn, mlp = params["self_attn"], params["mlp"]
    normed = layer_norm(params["layer_norm1"], x, config.layer_norm_eps)

    def heads(name: str) -> Array:
        y = linear(attn[name], normed)
        return y.reshape(*y.shape[:2], -1, config.head_dim).swapaxes(1, 2)

    query, key, value = heads("q_proj"), heads("k_proj"), heads("v_proj")
    attended = attend_in_places(query, key, value, places, config.compute.attention)
    x = x + linear(attn["out_proj"], attended.swapaxes(1, 2).reshape(x.shape))
    normed = layer_norm(params["layer_norm2"], x, config.layer_norm_eps)
    return x + linear(mlp["fc2"], jax.nn.gelu(linear(mlp["fc1"], normed), approximate=True))


def pixel_shuffle(x: Float[Array, "B rows cols D"], scale: int) -> Float[Array, "B U E"]:
    """Joins each ``scale × scale`` block of patches into one token; features (row, column, D)."""
    batch, rows, cols, width = x.shape
    x = x.reshape(batch, rows // scale, scale, cols // scale, scale, width)
    return x.swapaxes(2, 3).reshape(batch, -1, scale**2 * width)
