"""The text tower as an encoder: a causal Llama, whose last hidden states are the features."""

import jax.numpy as jnp

from resadapt_jax.models.decoder import run_layers
from resadapt_jax.models.layers import embed
from resadapt_jax.models.rope import inverse_frequencies
from resadapt_jax.models.smolvlm.config import SmolVLMConfig
from resadapt_jax.typing import Array, Bool, Float, Int, Params


def embed_tokens(params: Params, token_ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Text embeddings of the ids."""
    return embed(params["model"]["text_model"]["embed_tokens"], token_ids)


def forward(
    params: Params, config: SmolVLMConfig, token_ids: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T D"]:
    """Hidden states after the final norm, one per token; meaningless where masked out.

    A token sees the valid tokens at or before it.

    Args:
        params: the whole model's tree.
        config: the whole model's architecture.
        token_ids: right-padded; what padding holds does not matter.
        mask: valid tokens.
    """
    text, embeds = config.text, embed_tokens(params, token_ids)
    positions = jnp.arange(token_ids.shape[1], dtype=jnp.float32)[:, None]
    angles = positions * inverse_frequencies(text.head_dim, text.rope_theta)[None, :]
    angles = jnp.broadcast_to(angles, (len(embeds), *angles.shape))
    hidden, _ = run_layers(params["model"]["text_model"], text, embeds, angles, mask)
    return hidden
