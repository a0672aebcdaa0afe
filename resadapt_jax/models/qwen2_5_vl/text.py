"""The decoder: shared layers under chunked mRoPE, with or without a KV cache."""

from resadapt_jax.models.decoder import run_layers
from resadapt_jax.models.kv_cache import KVCache
from resadapt_jax.models.layers import embed, head_logits
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig
from resadapt_jax.models.rope import mrope_angles
from resadapt_jax.typing import Array, Bool, Float, Int, Params


def embed_tokens(params: Params, token_ids: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Text embeddings of the ids."""
    return embed(params["model"]["embed_tokens"], token_ids)


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
    angles = mrope_angles(position_ids, text.head_dim, text.rope_theta, text.mrope_section)
    return run_layers(params["model"], text, embeds, angles, mask, cache)


def logits(
    params: Params, config: Qwen2_5VLConfig, hidden: Float[Array, "*N D"]
) -> Float[Array, "*N V"]:
    """Next-token logits, float32; the head is the embedding where the two are tied."""
    tied = config.tie_word_embeddings
    head = params["model"]["embed_tokens"] if tied else params["lm_head"]
    return head_logits(head, hidden)
