"""Choosing the next token from logits."""

import jax
import jax.numpy as jnp

from resadapt_jax.typing import Array, Float, Int, Key


def choose(
    key: Key[Array, ""],
    logits: Float[Array, "B V"],
    temperature: float,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Draws from ``softmax(keep_likeliest(logits / temperature))``; the argmax at temperature 0.

    Returns:
        Token ids and their float32 log-probs under the distribution they came from: tempered,
        filtered, and normalised over the tokens that are left. At temperature 0 there is no draw
        and they are those of ``softmax(logits)``.
    """
    logits = logits.astype(jnp.float32)
    if temperature:
        logits = keep_likeliest(logits / temperature, top_k, top_p)
        token = jax.random.categorical(key, logits)
    else:
        token = jnp.argmax(logits, axis=-1)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
    return token.astype(jnp.int32), chosen


def keep_likeliest(
    logits: Float[Array, "B V"], top_k: int | None = None, top_p: float = 1.0
) -> Float[Array, "B V"]:
    """-inf for all tokens but the likeliest, by transformers' rules: top-k first, then top-p.

    Args:
        logits: float32.
        top_k: keep this many, and all that tie with the last of them; ``None`` keeps all.
        top_p: of what top-k kept, drop the least likely while together they have at most
            ``1 - top_p``, but never the likeliest. Ties drop the lower id first.
    """
    if top_k is not None:
        kept, _ = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))
        logits = jnp.where(logits < kept[:, -1:], -jnp.inf, logits)
    if top_p < 1:
        order = jnp.argsort(logits, axis=-1, stable=True)
        ascending = jnp.take_along_axis(logits, order, axis=-1)
        mass = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1)
        dropped = (mass <= 1 - top_p).at[:, -1].set(False)
        rows = jnp.arange(len(logits))[:, None]
        logits = jnp.where(jnp.zeros_like(dropped).at[rows, order].set(dropped), -jnp.inf, logits)
    return logits
