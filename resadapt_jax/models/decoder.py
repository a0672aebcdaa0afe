"""The decoder of the Qwen families: grouped queries, SwiGLU, deepstack; with a cache or without."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import jax.numpy as jnp

from kernels.segment_attention import Places, attend_in_places
from resadapt_jax.models.compute import Compute
from resadapt_jax.models.kv_cache import KVCache, write_slots
from resadapt_jax.models.layers import linear, rms_norm, swiglu
from resadapt_jax.models.partition import BATCH, HEADS, constrain
from resadapt_jax.models.rope import rotate
from resadapt_jax.models.stacking import StackedLayers, scan_layers
from resadapt_jax.typing import Array, Bool, Float, Int, Params


class DecoderConfig(Protocol):
    """What the layers read of a family's text config."""

    num_hidden_layers: int
    rms_norm_eps: float
    compute: Compute

    @property
    def head_dim(self) -> int: ...


def run_layers(
    params: Params,
    config: DecoderConfig,
    embeds: Float[Array, "B T D"],
    angles: Float[Array, "B T A"],
    mask: Bool[Array, "B T"],
    cache: KVCache | None = None,
    deepstack: Sequence[Float[Array, "B T D"]] = (),
) -> tuple[Float[Array, "B T D"], KVCache]:
    """Runs all layers and the final norm over ``T`` positions.

    A position sees the valid positions at or before it, those of the cache included.

    Args:
        params: holds ``layers`` and ``norm``. Biases and the norms of queries and keys are used
            where the checkpoint has them.
        config: the decoder's architecture.
        embeds: text and visual embeddings; padding rows are ignored, whatever they hold.
        angles: of the rotary embedding, float32.
        mask: valid positions.
        cache: earlier positions, with at least ``T`` free slots; ``None`` starts afresh. Stacked
            layers take none: a loop over them would copy what it cannot update in place.
        deepstack: what is added to the output of the first layers, one each.

    Returns:
        Hidden states after the final norm (meaningless at padding), and the cache with the ``T``
        positions added; without one given, a cache of exactly these ``T`` slots.

    Raises:
        ValueError: a cache for stacked layers.
    """
    layers = params["layers"]
    scanned = isinstance(layers, StackedLayers)
    if scanned and cache is not None:
        raise ValueError("stacked layers run without a cache: generate with unstack_layers(params)")
    x = constrain(jnp.where(mask[:, :, None], embeds, 0), BATCH)
    # transformers turns text heads in the activation's dtype, and vision heads in float32.
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    start = jnp.zeros((), jnp.int32) if cache is None else cache.length
    seen = mask if cache is None else write_slots(cache.mask, mask, start, axis=1)
    query_slot = start + jnp.arange(x.shape[1])
    places = Places(
        query_segment=mask.astype(jnp.int32),
        key_segment=seen.astype(jnp.int32),
        query_slot=query_slot,
        key_slot=jnp.arange(seen.shape[1]),
    )
    shown = mask[:, :, None]
    features = [jnp.where(shown, feature, 0).astype(x.dtype) for feature in deepstack]
    if scanned and features:
        # Zeros for all later layers: the backward pass would keep a mask of each.
        stacked_features = jnp.stack([*features, jnp.zeros_like(x)])

    @partial(config.compute.wrap, scanned=scanned)
    def run(params, x, past):
        return layer(params, config, x, cos, sin, places, past, start)

    def step(params, x, index):
        past = None if cache is None else (cache.keys[index], cache.values[index])
        x, key_value = run(params, x, past)
        if scanned and features:
            x = x + stacked_features[jnp.minimum(index, len(features))]
        elif not scanned and index < len(features):
            x = x + features[index]
        return x, key_value

    x, (keys, values) = scan_layers(step, layers, x, config.num_hidden_layers)
    hidden = rms_norm(params["norm"], x, config.rms_norm_eps)
    length = start + jnp.int32(x.shape[1])
    return hidden, KVCache(keys=keys, values=values, mask=seen, length=length)


def layer(
    params: Params,
    config: DecoderConfig,
    x: Float[Array, "B T D"],
    cos: Float[Array, "B T A"],
    sin: Float[Array, "B T A"],
    places: Places,
    past: tuple[Array, Array] | None,
    start: Int[Array, ""],
) -> tuple[Float[Array, "B T D"], tuple[Array, Array]]:
    """One decoder layer; returns its output and the keys and values of all ``S`` slots."""
    batch, length, _ = x.shape
    attn = params["self_attn"]
    normed = rms_norm(params["input_layernorm"], x, config.rms_norm_eps)

    def heads(name: str) -> Array:
        return linear(attn[name], normed).reshape(batch, length, -1, config.head_dim)

    query, key, value = heads("q_proj"), heads("k_proj"), heads("v_proj")
    if "q_norm" in attn:
        query = rms_norm(attn["q_norm"], query, config.rms_norm_eps)
        key = rms_norm(attn["k_norm"], key, config.rms_norm_eps)
    query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    query, key, value = (y.swapaxes(1, 2) for y in (query, key, value))
    if past is not None:
        key = write_slots(past[0], key, start, axis=2)
        value = write_slots(past[1], value, start, axis=2)
    # A cache of another dtype is storage only: attention computes in the activations' own.
    seen = (y.astype(x.dtype) for y in (key, value))
    attended = attend_in_places(
        query, *seen, places, config.compute.attention, batch_axes=BATCH, head_axis=HEADS
    )
    attended = attended.swapaxes(1, 2).reshape(batch, length, -1)
    x = constrain(x + linear(attn["o_proj"], attended), BATCH)
    normed = rms_norm(params["post_attention_layernorm"], x, config.rms_norm_eps)
    return constrain(x + swiglu(params["mlp"], normed), BATCH), (key, value)
