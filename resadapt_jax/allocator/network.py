"""The allocator's network: frozen encoder features to a policy per unit.

The architecture of ResAdapt's released first network (arXiv 2603.28610, section 3.2 and appendix
A.2): projections, query cross-attention, attention over time and space, query-guided pooling, a
coarse feature per unit, and a head with a skip branch.

The videos of a prompt are one segment of its frames, each image is another, of one unit; segments
do not see one another.
"""

from dataclasses import dataclass, field
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from resadapt_jax.allocator.bounds import Bounds, ProjectedBounds
from resadapt_jax.allocator.encoder import EncoderFeatures
from resadapt_jax.allocator.head import PolicyHead
from resadapt_jax.allocator.layers import SpaceTimeLayer, TextLayer
from resadapt_jax.allocator.policy import Policy, ScaleRange, to_scale
from resadapt_jax.allocator.pooling import QueryPooling, UnitFeatures, pool_pairs
from resadapt_jax.allocator.units import pair_mask, pair_scales
from resadapt_jax.models.partition import BATCH, constrain
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params


@dataclass(frozen=True, kw_only=True)
class AllocatorConfig:
    """Shape and choices of the network; the defaults are the released shape."""

    frame_width: int = 576  # of the encoder's frame tokens
    text_width: int = 576  # of the encoder's text tokens
    width: int = 1024
    num_heads: int = 16  # over text and space; over time half as many
    head_dim: int = 64
    ff_mult: int = 4
    num_text_layers: int = 1
    num_space_time_layers: int = 2
    pool_width: int = 512
    pool_temperature: float = 1.0
    head_width: int = 512
    rope_theta: float = 1e4
    unit: Literal["pair", "frame"] = "pair"
    text_gate: Literal["paper", "released"] = "released"  # tanh gate from zero, or none
    start: Literal["uniform", "released"] = "uniform"
    bounds: Bounds = field(default_factory=ProjectedBounds)  # chooses the distribution too
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; pooling on is float32

    def __post_init__(self):
        if self.num_heads % 2 or self.head_dim % 4:
            raise ValueError(
                "num_heads must be even and head_dim a multiple of 4 (half the heads attend over "
                f"time, half the dimensions rotate over space), got {self.num_heads} and "
                f"{self.head_dim}"
            )


@struct.dataclass
class AllocatorOutput:
    """The policy of K units: ⌈F / 2⌉ temporal pairs, or F frames (config.unit).

    With frames as units, actions are drawn and scored per frame and `units.pair_scales` averages
    the two scales of a pair. Units that hold no valid frame have the policy of the start and
    feature 0.
    """

    policy: Policy  # its parameters are [B K], float32
    unit_features: Float[Array, "B K D"]  # f_k, float32, trainable
    unit_mask: Bool[Array, "B K"]
    unit_segments: Int[Array, "B K"]


class AllocatorNetwork(nn.Module):
    """Encoder features to `AllocatorOutput`; what is padded may hold anything, NaN included."""

    config: AllocatorConfig

    @nn.compact
    def __call__(self, features: EncoderFeatures) -> AllocatorOutput:
        c = self.config
        widths = features.frames.shape[-1], features.text.shape[-1]
        if widths != (c.frame_width, c.text_width):
            raise ValueError(
                f"frame and text features are {widths} wide, the config expects "
                f"{(c.frame_width, c.text_width)}"
            )
        frame_mask, text_mask = features.frame_mask, features.text_mask
        x = jnp.where(frame_mask[:, :, None, None], features.frames, 0.0).astype(c.dtype)
        text = jnp.where(text_mask[:, :, None], features.text, 0.0).astype(c.dtype)
        x = nn.Dense(c.width, use_bias=False, dtype=c.dtype, name="frame_projection")(x)
        text = nn.Dense(c.width, use_bias=False, dtype=c.dtype, name="text_projection")(text)
        x = self._layers(x, text, features)

        x, text = x.astype(jnp.float32), text.astype(jnp.float32)
        pooled = QueryPooling(c.pool_width, c.pool_temperature, name="pool")(x, text, text_mask)
        if c.unit == "pair":
            pooled, unit_mask = pool_pairs(pooled, frame_mask), pair_mask(frame_mask)
            unit_segments = features.segment_ids[:, ::2]
        else:
            unit_mask, unit_segments = frame_mask, features.segment_ids
        unit_features = UnitFeatures(name="unit")(pooled, unit_mask, unit_segments, text, text_mask)
        head = PolicyHead(c.head_width, c.bounds, c.start, name="head")
        return AllocatorOutput(
            policy=head(unit_features, unit_mask),
            unit_features=jnp.where(unit_mask[:, :, None], unit_features, 0.0),
            unit_mask=unit_mask,
            unit_segments=unit_segments,
        )

    def _layers(self, x, text, features):
        c = self.config
        shape = {
            "num_heads": c.num_heads,
            "head_dim": c.head_dim,
            "ff_mult": c.ff_mult,
            "dtype": c.dtype,
        }
        x, text = constrain(x, BATCH), constrain(text, BATCH)
        for i in range(c.num_text_layers):
            layer = TextLayer(**shape, gated=c.text_gate == "paper", name=f"text_layer_{i}")
            x = constrain(layer(x, text, features.text_mask), BATCH)
        for i in range(c.num_space_time_layers):
            layer = SpaceTimeLayer(**shape, rope_theta=c.rope_theta, name=f"space_time_layer_{i}")
            x = constrain(layer(x, features.frame_mask, features.segment_ids), BATCH)
        return x


@jax.jit(static_argnames="config")
def init_params(key: Key[Array, ""], config: AllocatorConfig) -> Params:
    """Fresh parameters; their shapes depend on the config alone, not on F, L or N."""
    features = EncoderFeatures(
        frames=jnp.zeros((1, 2, 1, config.frame_width)),
        frame_mask=jnp.ones((1, 2), bool),
        segment_ids=jnp.zeros((1, 2), jnp.int32),
        text=jnp.zeros((1, 1, config.text_width)),
        text_mask=jnp.ones((1, 1), bool),
    )
    return AllocatorNetwork(config).init(key, features)["params"]


def allocate(params: Params, config: AllocatorConfig, features: EncoderFeatures) -> AllocatorOutput:
    """Apply the network: a pure function of parameters and features."""
    return AllocatorNetwork(config).apply({"params": params}, features)


def mean_pair_scales(
    allocation: AllocatorOutput, frame_mask: Bool[Array, "B F"], scale_range: ScaleRange
) -> Float[Array, "B E"]:
    """The deterministic scale of each temporal pair: s_min + E[a] (s_max - s_min), E = ⌈F / 2⌉.

    Where the units are frames, a pair has the mean of its frames' scales.
    """
    scales = to_scale(allocation.policy.mean(), scale_range)
    if scales.shape[1] == frame_mask.shape[1]:
        scales = pair_scales(scales[:, None, :], frame_mask)[:, 0]
    return scales


@jax.jit(static_argnames=("config", "scale_range"))
def propose_scales(
    params: Params,
    config: AllocatorConfig,
    features: EncoderFeatures,
    scale_range: ScaleRange,
) -> Float[Array, "B E"]:
    """`mean_pair_scales` of what the network gives: what a trained allocator proposes."""
    allocation = allocate(params, config, features)
    return mean_pair_scales(allocation, features.frame_mask, scale_range)


def count_params(config: AllocatorConfig) -> int:
    """Trainable parameters of a config, without allocating any."""
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), config))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
