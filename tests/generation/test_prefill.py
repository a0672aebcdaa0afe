"""Chunks and shared prefixes give what whole prompts give; the cache's size is what is said."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation_parts import CONFIGS, GRIDS, NEW_TOKENS, PROMPTS, compact, embedded, params_of

from kernels.segment_attention import Backend
from resadapt_jax.generation.answer import DecodingConfig, generate_from
from resadapt_jax.generation.prefill import cache_slots, prefill
from resadapt_jax.generation.prompts import common_prefix, lay_out
from resadapt_jax.generation.stopping import stop_tokens
from resadapt_jax.models.compute import Compute, with_compute
from resadapt_jax.models.families import family_of
from resadapt_jax.models.kv_cache import cache_bytes
from resadapt_jax.models.prompt_layout import expand_prompt

LENGTH = 16 + 10  # compact positions, and the capacity behind them


@pytest.fixture(scope="module", params=CONFIGS)
def batch(request):
    return embedded(request.param)


_prefill = jax.jit(
    prefill,
    static_argnames=(
        "config",
        "new_tokens",
        "chunk_size",
        "cache_dtype",
        "shared_prefix",
        "group_size",
    ),
)
_generate = jax.jit(
    generate_from, static_argnames=("config", "decoding", "shared_prefix", "group_size")
)


@partial(jax.jit, static_argnums=1)
def _embed(params, config, layout, visual):
    return family_of(config).model.embed_prompt(params, config, layout, visual)


def run(batch, **options):
    return _prefill(
        batch.params, batch.config, batch.embeds, batch.layout, new_tokens=NEW_TOKENS, **options
    )


def generate(batch, shared_prefix=0, group_size=1, **decoding):
    return _generate(
        batch.params,
        batch.config,
        batch.layout,
        batch.visual,
        DecodingConfig(max_new_tokens=NEW_TOKENS, **decoding),
        jax.random.key(0),
        shared_prefix=shared_prefix,
        group_size=group_size,
    )


@pytest.fixture(scope="module")
def whole(batch):
    return run(batch)


def valid(cache):
    """Keys and values of the valid slots of each row, in order."""
    rows = [np.asarray(mask) for mask in cache.mask]
    return [
        np.asarray(x)[row][:, mask]
        for x in cache.keys + cache.values
        for row, mask in enumerate(rows)
    ]


@pytest.mark.parametrize("chunk_size", [5, 25, LENGTH])
def test_chunks_equal_the_whole(batch, whole, chunk_size):
    last, cache = run(batch, chunk_size=chunk_size)
    np.testing.assert_allclose(last, whole[0], atol=2e-5)
    assert cache.mask.sum(axis=1).tolist() == whole[1].mask.sum(axis=1).tolist() == [21, 3, 11]
    for ours, expected in zip(valid(cache), valid(whole[1]), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_poisoned_padding_changes_nothing(batch, whole):
    """Neither tokens nor positions that are none; the row of text alone has only such tokens."""
    count = jnp.array([9, 0, 4])
    padding = jnp.arange(batch.visual.shape[1])[None, :] >= count[:, None]
    visual = jnp.where(padding[:, :, None], jnp.nan, batch.visual)
    embeds = _embed(batch.params, batch.config, batch.layout, visual)
    behind = ~batch.layout.mask[:, :, None]
    embeds = jax.tree.map(lambda x: jnp.where(behind, jnp.nan, x), embeds)
    poisoned = batch._replace(visual=visual, embeds=embeds)
    np.testing.assert_array_equal(run(poisoned)[0], whole[0])
    clean, out = generate(batch), generate(poisoned)
    np.testing.assert_array_equal(out.token_ids, clean.token_ids)
    np.testing.assert_array_equal(out.log_probs, clean.log_probs)


def test_chunks_continue_alike(batch):
    expected, chunked = generate(batch), generate(batch, prefill_chunk=5)
    np.testing.assert_array_equal(chunked.token_ids, expected.token_ids)
    np.testing.assert_allclose(chunked.log_probs, expected.log_probs, atol=2e-5)


def test_deepstack_reaches_every_chunk():
    """Taken away from one chunk only, Qwen3-VL's hidden states change."""
    batch = embedded("qwen3_vl")
    with_all, _ = run(batch, chunk_size=5)
    for first in (0, 5, 10, 15, 20):
        cut = tuple(x.at[:, first : first + 5].set(0) for x in batch.embeds.deepstack)
        without, _ = run(batch._replace(embeds=batch.embeds.replace(deepstack=cut)), chunk_size=5)
        shown = (batch.layout.visual_index[:, first : first + 5] >= 0).any(axis=1)
        np.testing.assert_array_equal(jnp.abs(without - with_all).max(axis=1) > 1e-3, shown)


def test_memory_of_chunks_grows_with_the_chunk_not_with_the_square():
    config = with_compute(CONFIGS["qwen2_5_vl"], Compute(attention=Backend.DENSE))
    length = 1024
    family = family_of(config)
    layout = expand_prompt(
        jnp.ones(length, jnp.int32),
        jnp.int32(length),
        jnp.full(length, -1),
        jnp.zeros((1, 3), jnp.int32),
        jnp.ones(1),
        capacity=length,
    )
    layout = jax.tree.map(lambda x: x[None], layout)
    params = params_of("qwen2_5_vl")
    embeds = family.text.embed_tokens(params, layout.token_ids)

    def temporary(chunk_size):
        def whole(params, embeds, layout):
            return prefill(params, config, embeds, layout, new_tokens=1, chunk_size=chunk_size)

        compiled = jax.jit(whole).lower(params, embeds, layout).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    scores = 4 * config.text.num_attention_heads * length  # bytes for one query
    assert temporary(None) > scores * length
    assert temporary(64) < scores * length / 4


# Three allocations of the first prompt.
ALLOCATIONS = np.stack([GRIDS[0], GRIDS[0][[3, 0, 1, 1]], GRIDS[0][[1, 3, 2, 2]]])


@pytest.fixture(scope="module")
def allocations(batch):
    layout = lay_out(compact([PROMPTS[0]] * 3), jnp.asarray(ALLOCATIONS), batch.config, 10)
    visual = batch.visual[jnp.zeros(3, int)]
    embeds = _embed(batch.params, batch.config, layout, visual)
    return batch._replace(layout=layout, visual=visual, embeds=embeds)


def test_common_prefix_ends_before_the_first_entry():
    assert common_prefix(compact([PROMPTS[0]] * 3)) == 3  # two words and vision start
    assert common_prefix(compact([PROMPTS[0], PROMPTS[2]])) == 3
    assert common_prefix(compact([PROMPTS[1], PROMPTS[2]])) == 3  # text alone, to its end
    assert common_prefix(compact([PROMPTS[2]])) == 4
    assert common_prefix(compact([PROMPTS[1]])) == 2  # one position has to be left


def test_a_shared_prefix_changes_nothing(allocations):
    expected = generate(allocations)
    shared = generate(allocations, shared_prefix=3, group_size=3)
    np.testing.assert_array_equal(shared.token_ids, expected.token_ids)
    np.testing.assert_allclose(shared.log_probs, expected.log_probs, atol=2e-5)
    whole, _ = run(allocations)
    chunked, _ = run(allocations, shared_prefix=3, group_size=3, chunk_size=2)
    np.testing.assert_allclose(chunked, whole, atol=2e-5)
    # Behind the first entry's pixels the rows differ, if only in positions: sharing would show.
    wrong, _ = run(allocations, shared_prefix=8, group_size=3)
    np.testing.assert_allclose(wrong[0], whole[0], atol=2e-5)
    assert (jnp.abs(wrong - whole).max(axis=1) > 2e-4).tolist() == [False, True, True]


def test_a_shared_prefix_is_run_once_per_group(allocations, monkeypatch):
    batch, text = allocations, family_of(allocations.config).text
    shapes, forward = [], text.forward

    def recorded(params, config, embeds, *args):
        shapes.append(embeds.shape[:2])
        return forward(params, config, embeds, *args)

    monkeypatch.setattr(text, "forward", recorded)
    jax.eval_shape(
        lambda: prefill(
            batch.params,
            batch.config,
            batch.embeds,
            batch.layout,
            new_tokens=1,
            shared_prefix=3,
            group_size=3,
        )
    )
    assert shapes == [(1, 3), (3, LENGTH - 3)]


def test_a_prompt_that_ends_within_the_prefix_keeps_its_last_state(batch, whole):
    # The row of text alone is three long; no two rows are taken for equal.
    last, _ = run(batch, shared_prefix=10)
    np.testing.assert_allclose(last, whole[0], atol=2e-5)


@pytest.mark.parametrize("options", [{"shared_prefix": LENGTH}, {"group_size": 2}])
def test_prefixes_and_groups_that_cannot_be_are_refused(batch, options):
    with pytest.raises(ValueError, match="shared_prefix must|3 rows make no groups of 2"):
        run(batch, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"chunk_size": 5}, {"chunk_size": 4, "shared_prefix": 7}])
def test_cache_has_its_final_size_and_its_bytes_are_known(batch, dtype, options):
    _, cache = jax.eval_shape(lambda: run(batch, cache_dtype=dtype, **options))
    slots = cache_slots(LENGTH, NEW_TOKENS, **options)
    # 26 positions: whole; in 6 chunks of 5; 7 in 2 chunks of 4, then 19 in 5 chunks of 4.
    assert slots == {0: 26, 1: 30, 2: 8 + 20}[len(options)] + NEW_TOKENS - 1
    held = sum(x.size * x.dtype.itemsize for x in cache.keys + cache.values)
    assert cache_bytes(batch.config.text, 3, slots, dtype) == cache.nbytes == held
    assert cache.mask.shape == (3, slots)


def test_bytes_of_a_cache_by_hand():
    # 2 layers, 2 heads of 6, keys and values, 4 bytes: 192 bytes a slot; 10 slots of 3 rows.
    assert cache_bytes(CONFIGS["qwen2_5_vl"].text, 3, 10, "float32") == 192 * 30
    assert cache_bytes(CONFIGS["qwen2_5_vl"].text, 3, 10, "bfloat16") == 96 * 30


def test_a_cache_of_half_the_bytes_stays_close(batch, whole):
    last, _ = run(batch, cache_dtype="bfloat16")
    # Stored with 8 bits: off, by some tenths of a percent a layer.
    error = jnp.linalg.norm(last - whole[0]) / jnp.linalg.norm(whole[0])
    assert 0 < error < 0.02


def test_stop_tokens_of_a_call_end_an_answer():
    batch = embedded("qwen2_5_vl")
    assert stop_tokens(batch.config) == (19,)
    free = generate(batch)
    stop = int(free.token_ids[0, 1])
    out = generate(batch, stop_token_ids=(stop,), cache_dtype="float32")
    ends = np.isin(free.token_ids, (stop, 19))
    lengths = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, NEW_TOKENS)
    np.testing.assert_array_equal(out.mask.sum(axis=1), lengths)
    assert lengths[0] <= 2


def test_generation_from_a_cache_of_another_dtype():
    batch = embedded("qwen2_5_vl")
    exact, half = generate(batch), generate(batch, cache_dtype="bfloat16")
    assert half.log_probs.dtype == jnp.float32
    np.testing.assert_allclose(half.log_probs[:, 0], exact.log_probs[:, 0], atol=0.1)
