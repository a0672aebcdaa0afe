"""Log-probs of drawn tokens against one pass over prompt and answer without a cache."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation_parts import CONFIGS, NEW_TOKENS, PROMPTS, embedded

from resadapt_jax.generation.decode import generate
from resadapt_jax.generation.teacher_forcing import answer_log_probs
from resadapt_jax.models.families import family_of


@pytest.fixture(scope="module", params=CONFIGS)
def batch(request):
    return embedded(request.param)


def test_more_visual_tokens_than_there_are_leave_numbers(batch):
    """A row that overflows points beyond the visual tokens; NaN times a weight of 0 is NaN."""
    index = batch.layout.visual_index
    layout = batch.layout.replace(
        visual_index=jnp.where(index >= 0, index + batch.visual.shape[1], -1)
    )
    embed = family_of(batch.config).model.embed_prompt
    for part in jax.tree.leaves(embed(batch.params, batch.config, layout, batch.visual)):
        assert np.isfinite(part).all()


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


TEMPERATURE, TOP_K, TOP_P = 1.3, 12, 0.8


@pytest.fixture(scope="module")
def drawn(batch):
    """Answers as generation draws them, and the logits that a plain pass gives for them."""
    run = jax.jit(
        lambda params, embeds, layout: generate(
            params,
            batch.config,
            embeds,
            layout,
            max_new_tokens=NEW_TOKENS,
            temperature=TEMPERATURE,
            top_k=TOP_K,
            top_p=TOP_P,
            key=jax.random.key(3),
            eos_token_ids=(),
            chunk_size=9,
        )
    )
    out = run(batch.params, batch.embeds, batch.layout)
    assert out.mask.all() and len({tuple(row) for row in out.token_ids.tolist()}) == len(PROMPTS)
    return out, forced_logits(batch, out.token_ids)


def chosen(log_probs, out):
    """Those of the tokens that were drawn."""
    return np.take_along_axis(log_probs, np.asarray(out.token_ids)[:, :, None], axis=2)[:, :, 0]


def test_log_probs_equal_a_teacher_forced_pass(drawn):
    out, logits = drawn
    expected = chosen(drawn_from(logits, TEMPERATURE, TOP_K, TOP_P), out)
    np.testing.assert_allclose(out.log_probs, expected, atol=1e-4, rtol=0)
    assert (np.asarray(out.token_ids) != logits.argmax(axis=2)).any()
    # Each filter shows: without it the same tokens would be less likely.
    for without in [(None, TOP_P), (TOP_K, 1.0)]:
        other = chosen(drawn_from(logits, TEMPERATURE, *without), out)
        assert (expected - other).max() > 1e-2


def test_answer_log_probs_are_those_of_the_draw(batch, drawn):
    """Five of six tokens, of which chunks of two leave one over; answers of 3, 5 and no tokens."""
    out, logits = drawn
    answered = np.arange(5)[None, :] < np.array([[3], [5], [0]])
    weights = np.random.default_rng(1).normal(size=answered.shape).astype(np.float32)

    @jax.jit
    @partial(jax.grad, argnums=(0, 1), has_aux=True)
    def ours(params, visual, token_ids):
        options = {"temperature": TEMPERATURE, "head_chunk": 2}
        log_probs = answer_log_probs(
            params, batch.config, batch.layout, visual, token_ids, answered, **options
        )
        return (weights * log_probs).sum(), log_probs

    token_ids = out.token_ids[:, :5]
    gradients, log_probs = ours(batch.params, batch.visual, token_ids)
    plain = chosen(drawn_from(logits, TEMPERATURE, None, 1.0), out)
    np.testing.assert_allclose(log_probs, np.where(answered, plain[:, :5], 0), atol=1e-4, rtol=0)
    # The filters' share of what generation recorded.
    gained = chosen(drawn_from(logits, TEMPERATURE, TOP_K, TOP_P), out) - plain
    recorded = (np.asarray(out.log_probs) - gained)[:, :5]
    np.testing.assert_allclose(log_probs, np.where(answered, recorded, 0), atol=1e-4, rtol=0)

    # Tokens behind an answer and visual rows that no prompt shows may hold anything.
    used = np.zeros(batch.visual.shape[:2], bool)
    for row, index in enumerate(np.asarray(batch.layout.visual_index)):
        used[row, index[index >= 0]] = True
    poisoned = (
        jnp.where(used[:, :, None], batch.visual, jnp.nan),
        jnp.where(answered, token_ids, -(10**6)),
    )
    again, log_probs_again = ours(batch.params, *poisoned)
    np.testing.assert_array_equal(log_probs_again, log_probs)
    jax.tree.map(np.testing.assert_array_equal, again, gradients)
    taken = np.abs(gradients[1]).max(axis=2) > 1e-6
    np.testing.assert_array_equal(taken, used & answered.any(axis=1)[:, None])
    assert all(np.any(x) for x in jax.tree.leaves(gradients[0]["lm_head"]))
