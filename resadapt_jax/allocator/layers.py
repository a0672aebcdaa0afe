"""The allocator's layers: query cross-attention, then attention over time and over space.

Pre-norm blocks after ResAdapt (arXiv 2603.28610, section 3.2) as its released network orders
them: text first, then time and space in turn.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resadapt_jax.allocator.units import places
from resadapt_jax.typing import Array, Bool, Float, Int


def apply_rope(
    x: Float[Array, "B S H D"], positions: Int[Array, "#B S"], *, rotary_dims: int, theta: float
) -> Float[Array, "B S H D"]:
    """Rotate the first `rotary_dims` of each head by position·θ^(−2i/d), in half-split form.

    (x₁, x₂) → (x₁ cos φ − x₂ sin φ, x₂ cos φ + x₁ sin φ), x₁ and x₂ being the two halves of the
    rotated dimensions; angles are float32.
    """
    half = rotary_dims // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies[None, None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second, rest = jnp.split(x.astype(jnp.float32), (half, rotary_dims), axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin, rest]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def layer_norm(name: str, dtype: DTypeLike = jnp.float32) -> nn.LayerNorm:
    """Layer norm with the released network's ε, computed in float32 and returned in `dtype`."""
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


class Dense(nn.Dense):
    """``nn.Dense`` on all leading axes as one, over which the kernel's gradient contracts.

    With several, XLA on a CPU first writes the inputs transposed for that, computing again what
    they were made of; with one it reads them as they lie.
    """

    @nn.compact
    def __call__(self, inputs: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
        rows = inputs.reshape(-1, inputs.shape[-1])
        return super().__call__(rows).reshape(*inputs.shape[:-1], self.features)


class FeedForward(nn.Module):
    """LN → linear → exact GELU → linear, without biases; returns the residual."""

    hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x):
        y = layer_norm("norm", self.dtype)(x)
        y = Dense(self.hidden, use_bias=False, dtype=self.dtype, name="up")(y)
        y = jax.nn.gelu(y, approximate=False)
        return Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name="down")(y)


class CrossAttention(nn.Module):
    """Attention of all frame tokens to the query's tokens; returns the residual.

    No positions, no biases. A prompt whose text mask is empty gets a zero residual.
    """

    num_heads: int
    head_dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B F L D"],
        text: Float[Array, "B N D"],
        text_mask: Bool[Array, "B N"],
    ) -> Float[Array, "B F L D"]:
        batch, frames, tokens, width = x.shape
        inner = self.num_heads * self.head_dim
        y = layer_norm("norm", self.dtype)(x).reshape(batch, frames * tokens, width)
        text = layer_norm("text_norm", self.dtype)(text)
        q = Dense(inner, use_bias=False, dtype=self.dtype, name="q")(y)
        kv = Dense(2 * inner, use_bias=False, dtype=self.dtype, name="kv")(text)
        k, v = jnp.split(kv, 2, axis=-1)
        q, k, v = (z.reshape(batch, -1, self.num_heads, self.head_dim) for z in (q, k, v))
        y = jax.nn.dot_product_attention(q, k, v, mask=text_mask[:, None, None, :])
        y = jnp.where(text_mask.any(axis=1)[:, None, None], y.reshape(batch, -1, inner), 0.0)
        y = Dense(width, use_bias=False, dtype=self.dtype, name="out")(y)
        return y.reshape(batch, frames, tokens, width)


class SelfAttention(nn.Module):
    """Rotary self-attention along one axis of [B F L D]: 1 for time, 2 for space.

    Returns the residual. `positions` are the rotary ones, 0 … S − 1 if not given; `mask` says which
    place may attend to which, None that all may to all.
    """

    axis: int
    num_heads: int
    head_dim: int
    rotary_dims: int
    rope_theta: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B F L D"],
        positions: Int[Array, "B S"] | None = None,
        mask: Bool[Array, "B S S"] | None = None,
    ) -> Float[Array, "B F L D"]:
        inner = self.num_heads * self.head_dim
        y = layer_norm("norm", self.dtype)(x)
        y = Dense(3 * inner, dtype=self.dtype, name="qkv")(y)
        y = y.reshape(*x.shape[:3], 3 * self.num_heads, self.head_dim)
        other = 3 - self.axis
        if positions is None:
            positions = jnp.arange(x.shape[self.axis])[None, :]
        attend = jax.vmap(self._attend, in_axes=(other, None, None), out_axes=other)
        y = attend(y, positions, None if mask is None else mask[:, None, :, :])
        y = y.reshape(*x.shape[:3], inner)
        return Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name="out")(y)

    def _attend(self, qkv, positions, mask):
        q, k, v = jnp.split(qkv, 3, axis=2)
        rope = {"rotary_dims": self.rotary_dims, "theta": self.rope_theta}
        q, k = (apply_rope(z, positions, **rope) for z in (q, k))
        return jax.nn.dot_product_attention(q, k, v, mask=mask)


class TextLayer(nn.Module):
    """x + g₁·Attn(x, text), then x + g₂·FF(x).

    `gated` makes g = tanh of a scalar that starts at 0, the paper's gated cross-attention; without
    it g = 1, which is what the released network computes.
    """

    num_heads: int
    head_dim: int
    ff_mult: int
    gated: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B F L D"],
        text: Float[Array, "B N D"],
        text_mask: Bool[Array, "B N"],
    ) -> Float[Array, "B F L D"]:
        attention = CrossAttention(self.num_heads, self.head_dim, self.dtype, name="attention")
        x = x + self._gate("attention_gate") * attention(x, text, text_mask)
        feed_forward = FeedForward(self.ff_mult * x.shape[-1], self.dtype, name="feed_forward")
        return x + self._gate("feed_forward_gate") * feed_forward(x)

    def _gate(self, name):
        if not self.gated:
            return 1.0
        return jnp.tanh(self.param(name, nn.initializers.zeros, ())).astype(self.dtype)


class SpaceTimeLayer(nn.Module):
    """x + Attn over time, x + Attn over space, x + FF(x).

    Time: half the heads, rotary over all of a head's dimensions, the angle being the frame's place
    in its segment; neither padded frames nor other segments are attended to. Space: all heads,
    rotary over the first half of a head's dimensions, the angle being the token's raster index.
    """

    num_heads: int
    head_dim: int
    ff_mult: int
    rope_theta: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B F L D"],
        frame_mask: Bool[Array, "B F"],
        segment_ids: Int[Array, "B F"],
    ) -> Float[Array, "B F L D"]:
        shared = {"head_dim": self.head_dim, "rope_theta": self.rope_theta, "dtype": self.dtype}
        time = SelfAttention(
            axis=1,
            num_heads=self.num_heads // 2,
            rotary_dims=self.head_dim,
            name="time",
            **shared,
        )
        space = SelfAttention(
            axis=2,
            num_heads=self.num_heads,
            rotary_dims=self.head_dim // 2,
            name="space",
            **shared,
        )
        together = segment_ids[:, :, None] == segment_ids[:, None, :]
        x = x + time(x, places(segment_ids, frame_mask), together & frame_mask[:, None, :])
        x = x + space(x)
        feed_forward = FeedForward(self.ff_mult * x.shape[-1], self.dtype, name="feed_forward")
        return x + feed_forward(x)
