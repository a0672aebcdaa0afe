"""Choosing the next token from logits."""

import jax
import jax.numpy as jnp

from resadapt_jax.typing import Array, Float, Int, Key


def choose(
    key: Key[Array, ""], logits: Float[Array, "B V"], temperature: float
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Draws from ``softmax(logits / temperature)``, or takes the argmax at temperature 0.

    Returns:
        Token ids and their float32 log-probs under the distribution they came from; at
        temperature 0 that is ``softmax(logits)``.
    """
    scaled = logits.astype(jnp.float32) / (temperature or 1.0)
    token = jax.random.categorical(key, scaled) if temperature else jnp.argmax(scaled, axis=-1)
    log_probs = jax.nn.log_softmax(scaled, axis=-1)
    chosen = jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
    return token.astype(jnp.int32), chosen
