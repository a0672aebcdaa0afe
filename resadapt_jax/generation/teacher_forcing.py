"""Log-probs of given answers: one differentiable pass over prompts and answers, no cache."""

import jax
import jax.numpy as jnp

from resadapt_jax.generation.chunks import in_chunks, num_chunks
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.partition import BATCH, constrain
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.typing import Array, Bool, Float, Int, Params


def answer_log_probs(
    params: Params,
    config: ModelConfig,
    layout: PromptLayout,
    visual: Float[Array, "B U W"],
    token_ids: Int[Array, "B N"],
    mask: Bool[Array, "B N"],
    *,
    temperature: float = 1.0,
    head_chunk: int = 256,
) -> Float[Array, "B N"]:
    """``ln softmax(logits / temperature)`` of each answer's tokens given all before them.

    What `decode.generate` records of the tokens it draws without ``top_k`` and ``top_p``, up to
    rounding. Differentiable in ``params`` and ``visual``; ``config.text.compute`` says what the
    backward pass keeps of the layers. Of the head it keeps nothing: logits exist for ``head_chunk``
    positions of every row at a time, forward and backward.

    Args:
        params: the whole model's tree.
        config: the whole model's architecture.
        layout: the prompts'. A row with ``overflow`` gives finite numbers that mean nothing.
        visual: rows of the family's ``model.encode_visual``.
        token_ids: answers, the end token included.
        mask: an answer's tokens, without gaps; what the others hold is ignored.
        temperature: static; at 0 as at 1, like `sampling.choose`.
        head_chunk: static, most answer positions whose logits exist at once.

    Returns:
        float32, 0 where masked.
    """
    family = family_of(config)
    token_ids = jnp.where(mask, token_ids, 0)
    whole = append_answers(layout, token_ids, mask)
    embeds = family.model.embed_prompt(params, config, whole, visual)
    hidden, _ = family.model.run_decoder(params, config, embeds, whole.position_ids, whole.mask)
    # The hidden state in front of a token predicts it.
    before = layout.length[:, None] - 1 + jnp.arange(token_ids.shape[1])[None, :]
    before = jnp.clip(before, 0, hidden.shape[1] - 1)
    hidden = jnp.take_along_axis(hidden, before[:, :, None], axis=1)
    hidden = constrain(hidden, BATCH)

    @jax.checkpoint
    def of_chunk(chunk: tuple[Array, Array]) -> Array:
        hidden, token_ids = chunk
        logits = family.text.logits(params, config, hidden) / (temperature or 1.0)
        logits = constrain(logits, BATCH, None, "tensor")
        # No gather, which a vocabulary split over devices would make costly.
        is_chosen = jnp.arange(logits.shape[-1])[None, None, :] == token_ids[:, :, None]
        chosen = jnp.where(is_chosen, logits, 0.0).sum(axis=-1)
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    log_probs = _map_chunks(of_chunk, (hidden, token_ids), head_chunk)
    return jnp.where(mask, log_probs, 0.0)


def append_answers(
    layout: PromptLayout, token_ids: Int[Array, "B N"], mask: Bool[Array, "B N"]
) -> PromptLayout:
    """Layouts of ``T + N`` positions, an answer's directly behind those of its prompt."""
    length, num_tokens = layout.mask.shape[1], token_ids.shape[1]
    behind = jnp.arange(length + num_tokens)[None, :] - layout.length[:, None]
    at = jnp.clip(behind, 0, num_tokens - 1)
    is_answer = (behind >= 0) & (behind < num_tokens) & jnp.take_along_axis(mask, at, axis=1)

    def prompt(x: Array, fill: int = 0) -> Array:
        widths = [(0, 0)] * (x.ndim - 1) + [(0, num_tokens)]
        return jnp.pad(x, widths, constant_values=fill)

    positions = (layout.next_position[:, None] + behind)[:, None, :]
    answered = jnp.sum(mask, axis=1, dtype=jnp.int32)
    return layout.replace(
        token_ids=jnp.where(
            is_answer, jnp.take_along_axis(token_ids, at, axis=1), prompt(layout.token_ids)
        ),
        visual_index=prompt(layout.visual_index, -1),
        position_ids=jnp.where(is_answer[:, None, :], positions, prompt(layout.position_ids)),
        mask=prompt(layout.mask) | is_answer,
        length=layout.length + answered,
        next_position=layout.next_position + answered,
    )


def _map_chunks(function, arrays: tuple[Array, ...], size: int) -> Array:
    """``function`` of at most ``size`` positions of axis 1 at a time, in chunks of equal size."""
    length = arrays[0].shape[1]
    out = jax.lax.map(function, in_chunks(arrays, num_chunks(length, size)))
    return jnp.moveaxis(out, 0, 1).reshape(len(arrays[0]), -1)[:, :length]
