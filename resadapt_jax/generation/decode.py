"""Batched generation inside jit: one prefill, then one token a step until every row is done."""

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resadapt_jax.generation.prefill import prefill
from resadapt_jax.generation.sampling import choose
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.kv_cache import KVCache
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params, PyTree


@flax.struct.dataclass
class Generation:
    """Generated answers.

    Attributes:
        token_ids: the end-of-sequence token included; 0 where ``mask`` is false.
        log_probs: float32, under the distribution each token was drawn from (`sampling.choose`); 0
            where masked.
        mask: tokens up to and including the first end-of-sequence token.
    """

    token_ids: Int[Array, "B N"]
    log_probs: Float[Array, "B N"]
    mask: Bool[Array, "B N"]


@flax.struct.dataclass
class _State:
    step: Int[Array, ""]  # tokens written
    token: Int[Array, " B"]  # the last of them
    done: Bool[Array, " B"]
    cache: KVCache
    output: Generation


def generate(
    params: Params,
    config: ModelConfig,
    embeds: PyTree,
    layout: PromptLayout,
    *,
    max_new_tokens: int,
    temperature: float,
    key: Key[Array, ""],
    eos_token_ids: tuple[int, ...],
    top_k: int | None = None,
    top_p: float = 1.0,
    chunk_size: int | None = None,
    cache_dtype: DTypeLike | None = None,
    shared_prefix: int = 0,
    group_size: int = 1,
) -> Generation:
    """Continues a batch of right-padded prompts of any lengths.

    The cache has its final size from the start (`prefill.cache_slots`).

    Args:
        params: the whole model's tree.
        config: the whole model's architecture.
        embeds: prompt embeddings, what the family's ``model.embed_prompt`` gave.
        layout: the batch's layouts.
        max_new_tokens: static bound on the answer's length.
        temperature: static; 0 is greedy.
        key: randomness of the draws; unused when greedy.
        eos_token_ids: a row stops after any of these; stops early once all rows have.
        top_k, top_p: static; which tokens may be drawn (`sampling.keep_likeliest`).
        chunk_size, cache_dtype, shared_prefix, group_size: as `prefill.prefill` takes them.
    """
    text, rows = family_of(config).text, len(layout.length)
    last, cache = prefill(
        params,
        config,
        embeds,
        layout,
        new_tokens=max_new_tokens,
        chunk_size=chunk_size,
        cache_dtype=cache_dtype,
        shared_prefix=shared_prefix,
        group_size=group_size,
    )

    def pick(state: _State, hidden: Float[Array, "B D"], cache: KVCache) -> _State:
        logits, draw = text.logits(params, config, hidden), jax.random.fold_in(key, state.step)
        token, log_prob = choose(draw, logits, temperature, top_k, top_p)
        return _append(state, token, log_prob, cache, eos_token_ids)

    def body(state: _State) -> _State:
        position = layout.next_position + state.step - 1
        hidden, cache = text.forward(
            params,
            config,
            text.embed_tokens(params, state.token[:, None]),
            jnp.broadcast_to(position[:, None, None], (rows, 3, 1)),
            jnp.ones((rows, 1), bool),
            state.cache,
        )
        return pick(state, hidden[:, 0], cache)

    state = jax.lax.while_loop(
        lambda state: (state.step < max_new_tokens) & ~jnp.all(state.done),
        body,
        pick(_empty(rows, max_new_tokens, cache), last, cache),
    )
    return state.output


def _empty(rows: int, max_new_tokens: int, cache: KVCache) -> _State:
    shape = (rows, max_new_tokens)
    return _State(
        step=jnp.zeros((), jnp.int32),
        token=jnp.zeros(rows, jnp.int32),
        done=jnp.zeros(rows, bool),
        cache=cache,
        output=Generation(
            token_ids=jnp.zeros(shape, jnp.int32),
            log_probs=jnp.zeros(shape, jnp.float32),
            mask=jnp.zeros(shape, bool),
        ),
    )


def _append(
    state: _State,
    token: Int[Array, " B"],
    log_prob: Float[Array, " B"],
    cache: KVCache,
    eos_token_ids: tuple[int, ...],
) -> _State:
    """The state with one more token in all rows that are not done."""
    step, done, output = state.step, state.done, state.output
    is_eos = jnp.any(token[:, None] == jnp.array(eos_token_ids, jnp.int32)[None, :], axis=-1)
    output = output.replace(
        token_ids=output.token_ids.at[:, step].set(jnp.where(done, 0, token)),
        log_probs=output.log_probs.at[:, step].set(jnp.where(done, 0.0, log_prob)),
        mask=output.mask.at[:, step].set(~done),
    )
    return _State(step=step + 1, token=token, done=done | is_eos, cache=cache, output=output)
