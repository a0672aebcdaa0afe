"""Batched generation against teacher-forced recomputation without a cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.generation import decode
from resadapt_jax.models.prompt_layout import expand_prompt
from resadapt_jax.models.qwen2_5_vl import model, text
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig

VOCABULARY, NEW_TOKENS, WIDTH = 24, 6, 9
CONFIG = Qwen2_5VLConfig(
    text=TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(1, 1, 1),
    ),
    vision=VisionConfig(
        depth=1,
        hidden_size=8,
        intermediate_size=8,
        num_heads=1,
        out_hidden_size=24,
        fullatt_block_indexes=(0,),
    ),
    image_token_id=20,
    video_token_id=21,
    vision_start_token_id=22,
    vision_end_token_id=23,
)
PROMPTS = [[3, 7, 1, 9, 4, 4, 2, 8, 11], [5], [6, 2, 2, 10]]


@pytest.fixture(scope="module")
def params():
    tree = model.init_params(jax.random.key(0), CONFIG)
    # Sharper than at the start of training, so that positions and tokens differ.
    return tree | {"lm_head": {"weight": 3.0 * tree["lm_head"]["weight"]}}


@pytest.fixture(scope="module")
def layout():
    ids = np.array([prompt + [0] * (WIDTH - len(prompt)) for prompt in PROMPTS])
    return jax.vmap(
        lambda ids, length: expand_prompt(
            ids,
            length,
            jnp.full(WIDTH, -1),
            jnp.zeros((1, 3), jnp.int32),
            jnp.ones(1),
            capacity=WIDTH,
        )
    )(jnp.asarray(ids), jnp.array([len(prompt) for prompt in PROMPTS]))


def generate(params, layout, key, temperature, eos_token_ids=(), poison=False):
    embeds = text.embed_tokens(params, layout.token_ids)
    if poison:
        embeds = jnp.where(layout.mask[:, :, None], embeds, jnp.nan)
    return decode.generate(
        params,
        CONFIG,
        embeds,
        layout,
        max_new_tokens=NEW_TOKENS,
        temperature=temperature,
        key=key,
        eos_token_ids=eos_token_ids,
    )


run = jax.jit(generate, static_argnames=("temperature", "eos_token_ids", "poison"))


@jax.jit
def all_logits(params, ids, mask):
    at = jnp.broadcast_to(jnp.arange(ids.shape[1])[None, None, :], (len(ids), 3, ids.shape[1]))
    hidden, _ = text.forward(params, CONFIG, text.embed_tokens(params, ids), at, mask)
    return text.logits(params, CONFIG, hidden)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_log_probs_equal_teacher_forcing(params, layout, temperature):
    out = run(params, layout, jax.random.key(5), temperature)
    assert out.mask.all()
    whole = [
        prompt + answer for prompt, answer in zip(PROMPTS, out.token_ids.tolist(), strict=True)
    ]
    length = WIDTH + NEW_TOKENS
    ids = np.array([row + [0] * (length - len(row)) for row in whole])
    mask = np.arange(length)[None] < np.array([[len(row)] for row in whole])
    log_probs = jax.nn.log_softmax(all_logits(params, ids, mask) / temperature, axis=-1)
    for row, prompt in enumerate(PROMPTS):
        at = len(prompt) - 1 + np.arange(NEW_TOKENS)
        expected = log_probs[row, at, out.token_ids[row]]
        np.testing.assert_allclose(out.log_probs[row], expected, atol=2e-5)


def test_draws_depend_on_the_key_and_steps_differ(params, layout):
    first = run(params, layout, jax.random.key(5), 1.0)
    same = run(params, layout, jax.random.key(5), 1.0)
    other = run(params, layout, jax.random.key(6), 1.0)
    np.testing.assert_array_equal(first.token_ids, same.token_ids)
    assert np.any(first.token_ids != other.token_ids)
    # Of equally likely tokens, chance alone decides: at every step anew, and for every row.
    flat = params | {"lm_head": {"weight": jnp.zeros_like(params["lm_head"]["weight"])}}
    rows = run(flat, layout, jax.random.key(5), 1.0).token_ids.tolist()
    assert all(len(set(row)) > 1 for row in rows) and len(set(map(tuple, rows))) == len(rows)


def test_poisoned_prompt_padding_changes_nothing(params, layout):
    clean = run(params, layout, jax.random.key(0), 0.0)
    poisoned = run(params, layout, jax.random.key(0), 0.0, poison=True)
    np.testing.assert_array_equal(clean.token_ids, poisoned.token_ids)
    np.testing.assert_array_equal(clean.log_probs, poisoned.log_probs)


def test_mask_ends_with_the_first_end_token(params, layout):
    free = run(params, layout, jax.random.key(0), 0.0)
    stop = int(free.token_ids[0, 2])
    out = run(params, layout, jax.random.key(0), 0.0, eos_token_ids=(stop,))
    for row in range(len(PROMPTS)):
        ends = np.flatnonzero(free.token_ids[row] == stop)
        length = ends[0] + 1 if len(ends) else NEW_TOKENS
        assert out.mask[row].tolist() == [i < length for i in range(NEW_TOKENS)]
        np.testing.assert_array_equal(out.token_ids[row, :length], free.token_ids[row, :length])
        assert not out.token_ids[row, length:].any() and not out.log_probs[row, length:].any()


def test_stops_as_soon_as_every_row_is_done(params, layout, monkeypatch):
    """The decoder runs once for the prompt and once for each token after the first."""
    free = np.asarray(run(params, layout, jax.random.key(5), 1.0).token_ids)
    calls, forward = [], text.forward

    def counted(*args):
        jax.debug.callback(lambda: calls.append(1))
        return forward(*args)

    monkeypatch.setattr(text, "forward", counted)
    # A callable of its own: a trace that ``run`` has cached would not count.
    fresh = functools.partial(generate)
    counting = jax.jit(fresh, static_argnames=("temperature", "eos_token_ids"))
    # Every row is done at its third token at the latest; then every row at once; then none.
    for stop in [tuple(set(free[:, 2].tolist())), tuple(range(VOCABULARY)), ()]:
        ends = np.isin(free, stop)
        lengths = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, NEW_TOKENS)
        calls.clear()
        out = counting(params, layout, jax.random.key(5), temperature=1.0, eos_token_ids=stop)
        jax.block_until_ready(out)
        jax.effects_barrier()
        np.testing.assert_array_equal(out.mask.sum(axis=1), lengths)
        assert len(calls) == lengths.max()
