"""Log-probs of drawn tokens against one pass over prompt and answer without a cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation_parts import CONFIGS, NEW_TOKENS, PROMPTS, embedded

from resadapt_jax.generation.decode import generate
from resadapt_jax.models.families import family_of


@pytest.fixture(scope="module", params=CONFIGS)
def batch(request):
    return embedded(request.param)


def forced_logits(batch, token_ids):
    """Logits [B N V] that predict each token of the answers, all positions in one pass."""
    text, layout = family_of(batch.config).text, batch.layout

    def one_pass(params, token_ids):
        rows, length = layout.mask.shape
        at = jnp.arange(length + NEW_TOKENS)[None, :]
        behind = at - layout.length[:, None]  # position in the answer
        answer = behind >= 0
        prompt_at = jnp.broadcast_to(jnp.minimum(at, length - 1), behind.shape)
        answer_at = jnp.clip(behind, 0, NEW_TOKENS - 1)

        def of_prompt(x):
            return jnp.take_along_axis(x, prompt_at[:, :, None], axis=1)

        def with_answer(x, answers):
            answers = jnp.take_along_axis(answers, answer_at[:, :, None], axis=1)
            return jnp.where(answer[:, :, None], answers, of_prompt(x))

        embeds, *taps = jax.tree.leaves(batch.embeds)
        taps = tuple(jnp.where(answer[:, :, None], 0, of_prompt(x)) for x in taps)
        deepstack = (taps,) if taps else ()  # an argument of Qwen3-VL's decoder alone
        generated = layout.next_position[:, None, None] + jnp.arange(NEW_TOKENS)[None, :, None]
        positions = with_answer(
            layout.position_ids.swapaxes(1, 2),
            jnp.broadcast_to(generated, (rows, NEW_TOKENS, 3)),
        )
        hidden, _ = text.forward(
            params,
            batch.config,
            with_answer(embeds, text.embed_tokens(params, token_ids)),
            positions.swapaxes(1, 2),
            behind < NEW_TOKENS,
            None,
            *deepstack,
        )
        predicts = layout.length[:, None] - 1 + jnp.arange(NEW_TOKENS)[None, :]
        hidden = jnp.take_along_axis(hidden, predicts[:, :, None], axis=1)
        return text.logits(params, batch.config, hidden)

    return np.asarray(jax.jit(one_pass)(batch.params, token_ids), np.float64)


def drawn_from(logits, temperature, top_k, top_p):
    """The log-probs of the distribution, token by token in plain Python; no ties here."""
    out = np.full(logits.shape, -np.inf)
    for index in np.ndindex(logits.shape[:-1]):
        probs = np.exp((logits[index] - logits[index].max()) / temperature)
        kept, mass = [], 0.0
        likeliest = np.argsort(-probs)[:top_k]
        for token in likeliest:
            if mass >= top_p * probs[likeliest].sum():
                break
            kept.append(token)
            mass += probs[token]
        out[index][kept] = np.log(probs[kept] / mass)
    return out


def test_log_probs_equal_a_teacher_forced_pass(batch):
    temperature, top_k, top_p = 1.3, 12, 0.8
    run = jax.jit(
        lambda params, embeds, layout: generate(
            params,
            batch.config,
            embeds,
            layout,
            max_new_tokens=NEW_TOKENS,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            key=jax.random.key(3),
            eos_token_ids=(),
            chunk_size=9,
        )
    )
    out = run(batch.params, batch.embeds, batch.layout)
    assert out.mask.all() and len({tuple(row) for row in out.token_ids.tolist()}) == len(PROMPTS)
    logits = forced_logits(batch, out.token_ids)
    expected = drawn_from(logits, temperature, top_k, top_p)
    chosen = np.take_along_axis(expected, np.asarray(out.token_ids)[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(out.log_probs, chosen, atol=1e-4, rtol=0)
    assert (np.asarray(out.token_ids) != logits.argmax(axis=2)).any()
    # Each filter shows: without it the same tokens would be less likely.
    for without in [(None, top_p), (top_k, 1.0)]:
        other = drawn_from(logits, temperature, *without)
        other = np.take_along_axis(other, np.asarray(out.token_ids)[:, :, None], axis=2)[:, :, 0]
        assert (chosen - other).max() > 1e-2
