"""From frame tokens to one feature per unit, guided by the query."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from resadapt_jax.allocator.layers import layer_norm
from resadapt_jax.allocator.units import follows, pair_mean
from resadapt_jax.typing import Array, Bool, Float, Int


@struct.dataclass
class PooledFrames:
    """One vector per frame (or per unit, after averaging) and how it was pooled; all float32."""

    tokens: Float[Array, "B K D"]  # Σ_l p_l h_l
    spread: Float[Array, "B K"]  # mean over tokens and channels of (h − mean_l h)²
    gate_entropy: Float[Array, "B K"]  # −Σ_l p_l ln p_l
    gate_peak: Float[Array, "B K"]  # max_l p_l


def cosine(x: Float[Array, "*batch D"], y: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    """x·y / (‖x‖ ‖y‖) over the last axis, 0 where either vector is 0."""
    squares = (x * x).sum(axis=-1) * (y * y).sum(axis=-1)
    # Both branches must be differentiable: a floor on the norm would blow the gradient up at 0.
    defined = squares > 0.0
    similarity = (x * y).sum(axis=-1) * jax.lax.rsqrt(jnp.where(defined, squares, 1.0))
    return jnp.where(defined, similarity, 0.0)


def masked_mean(values: Float[Array, "B N D"], mask: Bool[Array, "B N"]) -> Float[Array, "B D"]:
    """Mean of the masked-in rows, 0 where there is none."""
    total = jnp.where(mask[:, :, None], values, 0.0).sum(axis=1)
    return total / jnp.maximum(mask.sum(axis=1), 1)[:, None]


def text_summary(
    queries: Float[Array, "B F D"], text: Float[Array, "B N D"], text_mask: Bool[Array, "B N"]
) -> Float[Array, "B F D"]:
    """q_f = Σ_n softmax_n(m_f·e_n / √D) e_n over the valid text tokens, 0 where there is none."""
    logits = jnp.einsum("BFD,BND->BFN", queries, text) / text.shape[-1] ** 0.5
    mask = text_mask[:, None, :]
    # A large finite number: −inf would make the softmax of an empty query NaN.
    weights = jax.nn.softmax(jnp.where(mask, logits, -1e30), axis=-1)
    return jnp.einsum("BFN,BND->BFD", jnp.where(mask, weights, 0.0), text)


class QueryPooling(nn.Module):
    """z_f = Σ_l p_{f,l} h_{f,l}, p = softmax_l(w₂ᵀ GELU(W₁ [h_{f,l}; q_f] + b₁) / temperature)."""

    width: int
    temperature: float

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "B F L D"],
        text: Float[Array, "B N D"],
        text_mask: Bool[Array, "B N"],
    ) -> PooledFrames:
        centre = hidden.mean(axis=2)
        summary = text_summary(centre, text, text_mask)
        summary = jnp.broadcast_to(summary[:, :, None, :], hidden.shape)
        gate = nn.Dense(self.width, name="gate")(jnp.concatenate([hidden, summary], axis=-1))
        gate = jax.nn.gelu(gate, approximate=False)
        logits = nn.Dense(1, use_bias=False, name="logit")(gate)[..., 0]
        weights = jax.nn.softmax(logits / self.temperature, axis=-1)
        return PooledFrames(
            tokens=jnp.einsum("BFL,BFLD->BFD", weights, hidden),
            spread=jnp.square(hidden - centre[:, :, None, :]).mean(axis=(2, 3)),
            gate_entropy=-(weights * jnp.log(jnp.maximum(weights, 1e-9))).sum(axis=-1),
            gate_peak=weights.max(axis=-1),
        )


class UnitFeatures(nn.Module):
    """f_k = W [LN(z_k); five signals] + b, the coarse feature the similarity loss compares.

    The signals: spread of the tokens, entropy and peak of the pooling gate, cosine to the unit
    before (0 where that is of another segment, or none), and relevance
    cos(W_t e̅ + b_t, W_f z_k + b_f) to the mean text token.
    """

    @nn.compact
    def __call__(
        self,
        units: PooledFrames,
        unit_mask: Bool[Array, "B K"],
        unit_segments: Int[Array, "B K"],
        text: Float[Array, "B N D"],
        text_mask: Bool[Array, "B N"],
    ) -> Float[Array, "B K D"]:
        z = jnp.where(unit_mask[:, :, None], units.tokens, 0.0)
        before = jnp.pad(z[:, :-1], ((0, 0), (1, 0), (0, 0)))
        before = jnp.where(follows(unit_segments)[:, :, None], before, 0.0)
        query = nn.Dense(z.shape[-1], name="relevance_text")(masked_mean(text, text_mask))
        relevance = cosine(nn.Dense(z.shape[-1], name="relevance_frame")(z), query[:, None, :])
        scalars = (units.spread, units.gate_entropy, units.gate_peak, cosine(z, before), relevance)
        normed = layer_norm("norm")(z)
        inputs = jnp.concatenate([normed, jnp.stack(scalars, axis=-1)], axis=-1)
        return nn.Dense(z.shape[-1], name="feature")(inputs)


def pool_pairs(frames: PooledFrames, frame_mask: Bool[Array, "B F"]) -> PooledFrames:
    """Average everything pooled from the frames over each temporal pair's valid frames."""
    return jax.tree.map(lambda x: pair_mean(x, frame_mask), frames)
