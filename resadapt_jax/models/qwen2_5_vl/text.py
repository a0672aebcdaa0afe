"""The decoder: grouped-query attention, chunked mRoPE, SwiGLU, with or without a KV cache."""

import jax.numpy as jnp

from resadapt_jax.models.attention import attend
from resadapt_jax.models.kv_cache import KVCache, write_slots
from resadapt_jax.models.layers import linear, rms_norm, swiglu
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig
from resadapt_jax.models.rope import mrope_angles, rotate
from resadapt_jax.typing import Array, Bool, Float, Int, Params


def embed_tokens(params: Params, token_ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Text embeddings of the ids."""
    return params["model"]["embed_tokens"]["weight"][token_ids]


def forward(
    params: Params,
    config: Qwen2_5VLConfig,
    embeds: Float[Array, "B T D"],
    position_ids: Int[Array, "B 3 T"],
    mask: Bool[Array, "B T"],
    cache: KVCache | None = None,
) -> tuple[Float[Array, "B T D"], KVCache]:
    """Runs the decoder over ``T`` positions.

    A position sees the valid positions at or before it, those of the cache included.

    Args:
        params: the whole model's tree.
        config: the whole model's architecture.
        embeds: text and visual embeddings; padding rows are ignored, whatever they hold.
        position_ids: temporal, row and column positions.
        mask: valid positions.
        cache: earlier positions, with at least ``T`` free slots; ``None`` starts afresh.

    Returns:
        Hidden states after the final norm (meaningless at padding), and the cache with the ``T``
        positions added; without one given, a cache of exactly these ``T`` slots.
    """
    text = config.text
    x = jnp.where(mask[:, :, None], embeds, 0)
    angles = mrope_angles(position_ids, text.head_dim, text.rope_theta, text.mrope_section)
    # transformers turns text heads in the activation's dtype, and vision heads in float32.
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    start = jnp.zeros((), jnp.int32) if cache is None else cache.length
    seen = mask if cache is None else write_slots(cache.mask, mask, start, axis=1)
    query_slot = start + jnp.arange(x.shape[1])
    causal = jnp.arange(seen.shape[1])[None, :] <= query_slot[:, None]
    visible = causal[None, :, :] & seen[:, None, :]
    keys, values = [], []
    for index in range(text.num_hidden_layers):
        past = None if cache is None else (cache.keys[index], cache.values[index])
        layer_params = params["model"]["layers"][str(index)]
        x, (key, value) = layer(layer_params, text, x, cos, sin, visible, past, start)
        keys.append(key)
        values.append(value)
    hidden = rms_norm(params["model"]["norm"], x, text.rms_norm_eps)
    length = start + jnp.int32(x.shape[1])
    return hidden, KVCache(keys=tuple(keys), values=tuple(values), mask=seen, length=length)


def layer(
    params: Params,
    config: TextConfig,
    x: Float[Array, "B T D"],
    cos: Float[Array, "B T A"],
    sin: Float[Array, "B T A"],
    visible: Bool[Array, "B T S"],
    past: tuple[Array, Array] | None,
    start: Int[Array, ""],
) -> tuple[Float[Array, "B T D"], tuple[Array, Array]]:
    """One decoder layer; returns its output and the keys and values of all ``S`` slots."""
    batch, length, _ = x.shape
    attn = params["self_attn"]
    normed = rms_norm(params["input_layernorm"], x, config.rms_norm_eps)

    def heads(name: str) -> Array:
        return linear(attn[name], normed).reshape(batch, length, -1, config.head_dim)

    query, key = rotate(heads("q_proj"), cos, sin), rotate(heads("k_proj"), cos, sin)
    query, key, value = (y.swapaxes(1, 2) for y in (query, key, heads("v_proj")))
    if past is not None:
        key = write_slots(past[0], key, start, axis=2)
        value = write_slots(past[1], value, start, axis=2)
    attended = attend(query, key, value, visible).swapaxes(1, 2).reshape(batch, length, -1)
    x = x + linear(attn["o_proj"], attended)
    normed = rms_norm(params["post_attention_layernorm"], x, config.rms_norm_eps)
    return x + swiglu(params["mlp"], normed), (key, value)


def logits(
    params: Params, config: Qwen2_5VLConfig, hidden: Float[Array, "*N D"]
) -> Float[Array, "*N V"]:
    """Next-token logits, float32; the head is the embedding where the two are tied."""
    tied = config.tie_word_embeddings
    head = params["model"]["embed_tokens"] if tied else params["lm_head"]
    return linear(head, hidden).astype(jnp.float32)
