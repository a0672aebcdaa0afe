"""The vision tower: window and per-frame attention over packed patches of any grids."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kernels.segment_attention import attend_within_segments
from resadapt_jax.models.layers import joint_heads, linear, rms_norm, swiglu
from resadapt_jax.models.partition import HEADS, OPEN, constrain
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, VisionConfig
from resadapt_jax.models.rope import rotate, vision_angles
from resadapt_jax.models.stacking import StackedLayers, scan_layers
from resadapt_jax.models.vision_plan import VisionPlan
from resadapt_jax.typing import Array, Float, Int, Params


def encode(
    params: Params, config: Qwen2_5VLConfig, patches: Float[Array, "P features"], plan: VisionPlan
) -> Float[Array, "U D"]:
    """Encodes packed patches into merged visual tokens.

    Args:
        params: the whole model's tree.
        config: the whole model's architecture.
        patches: normalised patches in the plan's order, features (channel, time, y, x). Rows that
            the plan marks as padding are ignored, whatever they hold.
        plan: the layout of one packed sequence.

    Returns:
        One row per merged token in the plan's order; padding rows are exactly 0.
    """
    params, config = params["visual"], config.vision
    x = hidden_states(params, config, patches, plan)
    tokens = merge(params["merger"], config, x)[plan.window_rank]
    return jnp.where(plan.token_entry[:, None] >= 0, tokens, 0)


def hidden_states(
    params: Params, config: VisionConfig, patches: Float[Array, "P features"], plan: VisionPlan
) -> Float[Array, "P D"]:
    """What the last block gives, in window order, for a tower's own parameters and config."""
    x = embed_patches(params, config, patches, plan)
    x = _by_block(x, plan.window_order, plan.merge_size)
    cos, sin = _rotation(config, plan)
    in_window = _by_block(plan.window_ids[:, None], plan.window_order, plan.merge_size)[:, 0]

    sees_frame = jnp.asarray(np.isin(np.arange(config.depth), config.fullatt_block_indexes))
    blocks = params["blocks"]

    # Ids are chosen inside, so that the backward pass keeps a flag per block instead.
    @partial(config.compute.wrap, scanned=isinstance(blocks, StackedLayers))
    def run(params, x, sees_frame):
        # Reordering stays inside a temporal patch, so segment ids read the same in both orders.
        ids = jnp.where(sees_frame, plan.segment_ids, in_window)
        return block(params, config, x, cos, sin, ids)

    def step(params, x, index):
        return run(params, x, sees_frame[index]), None

    return scan_layers(step, blocks, x, config.depth)[0]


def embed_patches(
    params: Params, config: VisionConfig, patches: Float[Array, "P features"], plan: VisionPlan
) -> Float[Array, "P D"]:
    """The patch convolution, which is a matrix product over flattened patches."""
    weight = params["patch_embed"]["proj"]["weight"].reshape(config.hidden_size, -1)
    patches = jnp.where(plan.patch_entry[:, None] >= 0, patches, 0).astype(weight.dtype)
    return linear({"weight": weight}, patches)


def block(
    params: Params,
    config: VisionConfig,
    x: Float[Array, "P D"],
    cos: Float[Array, "P A"],
    sin: Float[Array, "P A"],
    segment_ids: Int[Array, " P"],
) -> Float[Array, "P D"]:
    """One transformer block with attention inside runs of equal ``segment_ids``."""
    normed = rms_norm(params["norm1"], x, config.rms_norm_eps)
    query, key, value = joint_heads(params["attn"]["qkv"], normed, config.head_dim)
    query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    attended = attend_within_segments(
        query, key, value, segment_ids, config.compute.attention, head_axis=HEADS
    )
    x = x + linear(params["attn"]["proj"], attended.reshape(x.shape))
    x = x + swiglu(params["mlp"], rms_norm(params["norm2"], x, config.rms_norm_eps))
    return constrain(x, OPEN, None)


def merge(params: Params, config: VisionConfig, x: Float[Array, "P D"]) -> Float[Array, "U O"]:
    """Joins the patches of a block into one token of the decoder's width."""
    x = rms_norm(params["ln_q"], x, config.rms_norm_eps)
    x = x.reshape(-1, config.spatial_merge_size**2 * config.hidden_size)
    x = jax.nn.gelu(linear(params["mlp"]["0"], x), approximate=False)
    return constrain(linear(params["mlp"]["2"], x), OPEN, None)


def _rotation(config: VisionConfig, plan: VisionPlan) -> tuple[Array, Array]:
    """Cosines and sines of the patches in window order, float32."""
    place = jnp.stack([plan.patch_row, plan.patch_col], axis=-1)
    place = _by_block(place, plan.window_order, plan.merge_size)
    angles = vision_angles(place[:, 0], place[:, 1], config.head_dim, config.rope_theta)
    return jnp.cos(angles), jnp.sin(angles)


def _by_block(x: Array, order: Array, merge_size: int) -> Array:
    """Gathers whole merge blocks of rows; the patches inside a block keep their order."""
    return x.reshape(len(order), -1)[order].reshape(len(order) * merge_size**2, -1)
