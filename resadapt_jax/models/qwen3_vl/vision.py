"""The vision tower: per-frame attention over packed patches of any grids, with deepstack taps."""

from collections.abc import Sequence
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from kernels.segment_attention import attend_within_segments
from resadapt_jax.models.layers import joint_heads, layer_norm, linear
from resadapt_jax.models.partition import HEADS, OPEN, constrain
from resadapt_jax.models.qwen3_vl.config import Qwen3VLConfig, VisionConfig
from resadapt_jax.models.rope import rotate, vision_angles
from resadapt_jax.models.stacking import StackedLayers, scan_layers
from resadapt_jax.models.vision_plan import VisionPlan, interpolation_taps
from resadapt_jax.typing import Array, Float, Params


@flax.struct.dataclass
class VisualFeatures:
    """What the decoder takes of the merged tokens of a packed sequence; exactly 0 at padding.

    Attributes:
        tokens: stand among the text embeddings.
        deepstack: per tap of the tower, what is added after the decoder layer of the same index.
    """

    tokens: Float[Array, "U D"]
    deepstack: tuple[Float[Array, "U D"], ...]


def encode(
    params: Params, config: Qwen3VLConfig, patches: Float[Array, "P features"], plan: VisionPlan
) -> VisualFeatures:
    """Encodes packed patches into merged visual tokens and their deepstack features.

    Args:
        params: the whole model's tree.
        config: the whole model's architecture.
        patches: normalised patches in the plan's order, features (channel, time, y, x). Rows that
            the plan marks as padding are ignored, whatever they hold.
        plan: the layout of one packed sequence; window tables are not read.
    """
    params, config = params["model"]["visual"], config.vision
    x, taps = hidden_states(params, config, patches, plan)
    valid = plan.token_entry[:, None] >= 0

    def step(params, _, index):
        return None, merge_tap(params, config, taps[index])

    mergers = params.get("deepstack_merger_list", {})  # a tower without taps has none
    if isinstance(mergers, StackedLayers):
        taps = jnp.asarray(taps)  # a list, if the blocks differ too much to be stacked
    _, deepstack = scan_layers(step, mergers, None, len(taps))
    return VisualFeatures(
        tokens=jnp.where(valid, merge(params["merger"], config, x), 0),
        deepstack=tuple(jnp.where(valid, features, 0) for features in deepstack),
    )


def hidden_states(
    params: Params, config: VisionConfig, patches: Float[Array, "P features"], plan: VisionPlan
) -> tuple[Float[Array, "P D"], Sequence[Float[Array, "P D"]]]:
    """What the last block gives, and each tapped one, for a tower's own parameters and config."""
    x = embed_patches(params, config, patches, plan)
    angles = vision_angles(plan.patch_row, plan.patch_col, config.head_dim, config.rope_theta)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    blocks, tapped = params["blocks"], config.deepstack_visual_indexes
    scanned = isinstance(blocks, StackedLayers)

    @partial(config.compute.wrap, scanned=scanned)
    def run(params, x):
        return block(params, config, x, cos, sin, plan)

    # In a scan every block writes to the slot of the next tap, whose own block writes last; one
    # more slot takes what comes after. So the loop carries as many states as are tapped, not as
    # there are blocks; and being a copy outside of `run`, the backward pass keeps none of them.
    slots = jnp.asarray(np.searchsorted(tapped, np.arange(config.depth)))

    def step(params, carry, index):
        x, taps = carry
        x = run(params, x)
        if scanned:
            taps = jax.lax.dynamic_update_index_in_dim(taps, x, slots[index], axis=0)
        elif index in tapped:
            taps = (*taps, x)
        return (x, taps), None

    taps = jnp.zeros((len(tapped) + 1, *x.shape), x.dtype) if scanned else ()
    (x, taps), _ = scan_layers(step, blocks, (x, taps), config.depth)
    return x, taps[: len(tapped)]


def embed_patches(
    params: Params, config: VisionConfig, patches: Float[Array, "P features"], plan: VisionPlan
) -> Float[Array, "P D"]:
    """The patch convolution, a matrix product over flattened patches, plus learned positions."""
    projection = params["patch_embed"]["proj"]
    weight = projection["weight"].reshape(config.hidden_size, -1)
    patches = jnp.where(plan.patch_entry[:, None] >= 0, patches, 0).astype(weight.dtype)
    x = linear({"weight": weight, "bias": projection["bias"]}, patches)
    taps, weights = interpolation_taps(plan, config.position_side)
    table = params["pos_embed"]["weight"]
    # One tap after the other: four states of every patch at once are more than a block needs.
    positions = sum(table[taps[:, i]] * weights[:, i, None] for i in range(taps.shape[1]))
    return x + positions.astype(x.dtype)


def block(
    params: Params,
    config: VisionConfig,
    x: Float[Array, "P D"],
    cos: Float[Array, "P A"],
    sin: Float[Array, "P A"],
    plan: VisionPlan,
) -> Float[Array, "P D"]:
    """One transformer block with attention inside every temporal patch."""
    normed = layer_norm(params["norm1"], x, config.layer_norm_eps)
    query, key, value = joint_heads(params["attn"]["qkv"], normed, config.head_dim)
    query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    attended = attend_within_segments(
        query, key, value, plan.segment_ids, config.compute.attention, head_axis=HEADS
    )
    x = x + linear(params["attn"]["proj"], attended.reshape(x.shape))
    normed = layer_norm(params["norm2"], x, config.layer_norm_eps)
    return constrain(x + feed_forward(params["mlp"], normed, approximate=True), OPEN, None)


def merge(params: Params, config: VisionConfig, x: Float[Array, "P D"]) -> Float[Array, "U O"]:
    """Joins the patches of a block, normalised one by one, into a token of the decoder's width."""
    x = layer_norm(params["norm"], x, config.layer_norm_eps)
    return constrain(feed_forward(params, _join(x, config), approximate=False), OPEN, None)


def merge_tap(params: Params, config: VisionConfig, x: Float[Array, "P D"]) -> Float[Array, "U O"]:
    """Joins the patches of a block, normalised together, into a deepstack feature."""
    x = layer_norm(params["norm"], _join(x, config), config.layer_norm_eps)
    return constrain(feed_forward(params, x, approximate=False), OPEN, None)


def feed_forward(
    params: Params, x: Float[Array, "N I"], *, approximate: bool
) -> Float[Array, "N O"]:
    """``fc2(gelu(fc1(x)))``; blocks approximate GELU by tanh, mergers do not."""
    hidden = jax.nn.gelu(linear(params["linear_fc1"], x), approximate=approximate)
    return linear(params["linear_fc2"], hidden)


def _join(x: Float[Array, "P D"], config: VisionConfig) -> Float[Array, "U O"]:
    """The patches of each merge block side by side."""
    return x.reshape(-1, config.spatial_merge_size**2 * config.hidden_size)
