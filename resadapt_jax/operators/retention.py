"""Retention: the share of the visual tokens that an allocation keeps.

Papers count retention in three ways, of N native tokens: tokens that enter the decoder
(`retention`), tokens per layer of it (`layer_retention`), and cache entries that stay
(`cache_retention`). A result says which it is.
"""

import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float, Int


def retention(
    tokens: Int[Array, "*B K"],
    unit_mask: Bool[Array, "*B K"],
    native: int | Int[Array, "*B K"],
) -> Float[Array, "*B"]:
    """ρ(s) = Σ n_t(s_t) / Σ n_t(1), ResAdapt eq. (12), from realised tokens; per clip.

    Args:
        tokens: realised tokens of each unit (`token_counts`, or counted after compression).
        native: tokens of each unit at scale 1 (`NativeSizes.tokens`).

    Returns:
        The fraction kept; 0 for a clip without units. For a data set, divide sums instead.
    """
    kept = jnp.sum(jnp.where(unit_mask, tokens, 0), axis=-1)
    full = jnp.sum(jnp.where(unit_mask, native, 0), axis=-1)
    return kept.astype(jnp.float32) / jnp.maximum(full, 1).astype(jnp.float32)


def layer_retention(
    layer_tokens: Int[Array, "*B layers"], native: int | Int[Array, "*B"]
) -> Float[Array, "*B"]:
    """(1/L) Σ_l n_l / N: visual tokens that each of the L decoder layers computes, of all.

    Args:
        layer_tokens: visual tokens in each layer.
        native: N, those of the clip at scale 1.
    """
    mean = jnp.mean(layer_tokens.astype(jnp.float32), axis=-1)
    return mean / jnp.maximum(native, 1)


def cache_retention(
    kept: Int[Array, "*B layers"], produced: Int[Array, "*B layers"]
) -> Float[Array, "*B"]:
    """Σ_l kept_l / Σ_l produced_l: visual entries of the KV cache that stay, of those computed."""
    total = jnp.maximum(jnp.sum(produced, axis=-1), 1)
    return jnp.sum(kept, axis=-1).astype(jnp.float32) / total.astype(jnp.float32)
