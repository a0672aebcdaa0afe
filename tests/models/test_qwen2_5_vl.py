"""Properties of the port that hold for any weights: padding, packing, order, gradients, caching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.models.prompt_layout import expand_prompt
from resadapt_jax.models.qwen2_5_vl import model, text, vision
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig
from resadapt_jax.models.vision_plan import plan_vision

CONFIG = Qwen2_5VLConfig(
    text=TextConfig(
        vocab_size=24,
        hidden_size=24,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=(1, 1, 1),
    ),
    vision=VisionConfig(
        depth=2,
        hidden_size=16,
        intermediate_size=12,
        num_heads=2,
        out_hidden_size=24,
        fullatt_block_indexes=(1,),
        patch_size=4,
        window_size=16,
    ),
    image_token_id=20,
    video_token_id=21,
    vision_start_token_id=22,
    vision_end_token_id=23,
)
# 2 x 6 + 4 + 2 = 18 tokens; windows are 4 x 4 patches, so the first entry has left-over windows.
GRIDS = np.array([[2, 4, 6], [1, 4, 4], [1, 2, 4]], np.int32)
COUNTS = GRIDS.prod(axis=1)
CAPACITY = 24


@pytest.fixture(scope="module")
def params():
    """Random weights; biases and norms too, so that every one of them matters."""
    tree = model.init_params(jax.random.key(0), CONFIG)
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


@pytest.fixture(scope="module")
def patches():
    rng = np.random.default_rng(0)
    return rng.normal(size=(COUNTS.sum(), CONFIG.vision.patch_features)).astype(np.float32)


@jax.jit
def encode(params, patches, plan):
    return vision.encode(params, CONFIG, patches, plan)


def plan(grids, capacity=CAPACITY):
    return plan_vision(
        jnp.asarray(grids),
        capacity=capacity,
        window_patches=CONFIG.vision.window_patches,
    )


def padded(patches, capacity=CAPACITY, fill=0.0):
    rows = capacity * 4 - len(patches)
    return jnp.asarray(np.pad(patches, ((0, rows), (0, 0)), constant_values=fill))


def test_poisoned_padding_changes_nothing(params, patches):
    clean = encode(params, padded(patches), plan(GRIDS))
    poisoned = encode(params, padded(patches, fill=np.nan), plan(GRIDS))
    np.testing.assert_array_equal(clean, poisoned)
    assert np.isfinite(clean).all() and not np.any(clean[18:])


def test_capacity_changes_nothing(params, patches):
    loose = encode(params, padded(patches), plan(GRIDS))
    tight = encode(params, padded(patches, 18), plan(GRIDS, 18))
    np.testing.assert_allclose(loose[:18], tight, atol=1e-5)


def test_permuting_entries_permutes_tokens(params, patches):
    order = [2, 0, 1]
    by_entry = np.split(patches, np.cumsum(COUNTS)[:-1])
    moved = np.concatenate([by_entry[i] for i in order])
    straight = encode(params, padded(patches), plan(GRIDS))[:18]
    permuted = encode(params, padded(moved), plan(GRIDS[order]))[:18]
    by_entry = np.split(np.asarray(straight), np.cumsum(COUNTS // 4)[:-1])
    np.testing.assert_allclose(permuted, np.concatenate([by_entry[i] for i in order]), atol=1e-5)


def test_temporal_patches_do_not_see_each_other(params, patches):
    # Patches 0-23 are the first temporal patch of entry 0: its 6 merged tokens.
    changed = patches.copy()
    changed[:24] += 1.0
    before = encode(params, padded(patches), plan(GRIDS))
    after = encode(params, padded(changed), plan(GRIDS))
    assert np.abs(after[:6] - before[:6]).min(axis=1).max() > 1e-3
    np.testing.assert_array_equal(after[6:], before[6:])


def test_jit_equals_eager(params, patches):
    eager = vision.encode(params, CONFIG, padded(patches), plan(GRIDS))
    np.testing.assert_allclose(encode(params, padded(patches), plan(GRIDS)), eager, atol=1e-5)


def test_gradients_are_finite_and_padding_gets_none(params, patches):
    weights = jax.random.normal(jax.random.key(2), (CAPACITY, 24))

    @jax.jit
    def gradients(params, patches, plan):
        def total(params, patches):
            return jnp.sum(weights * vision.encode(params, CONFIG, patches, plan))

        return jax.grad(total, argnums=(0, 1))(params, patches)

    by_params, by_patches = gradients(params, padded(patches, fill=np.nan), plan(GRIDS))
    for gradient in jax.tree.leaves(by_params["visual"]):
        assert np.isfinite(gradient).all() and np.any(gradient)
    count = COUNTS.sum()
    assert np.isfinite(by_patches).all() and not np.any(by_patches[count:])
    assert np.abs(by_patches[:count]).max(axis=1).min() > 0


def test_one_compilation_serves_every_allocation(params):
    traces = []

    @jax.jit
    def run(params, patches, grids):
        traces.append(1)

        def one(patches, grids):
            tables = plan(grids)
            visual = vision.encode(params, CONFIG, patches, tables)
            ids = jnp.array([5, 22, 21, 23, 22, 21, 23, 22, 21, 23, 6])
            entries = jnp.array([-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1])
            layout = expand_prompt(
                ids, jnp.int32(11), entries, grids, jnp.ones(3), capacity=CAPACITY + 8
            )
            return visual, layout, tables.overflow | layout.overflow

        visual, layout, overflow = jax.vmap(one)(patches, grids)
        embeds = model.embed_prompt(params, CONFIG, layout, visual)
        hidden, _ = text.forward(params, CONFIG, embeds, layout.position_ids, layout.mask)
        return text.logits(params, CONFIG, hidden), overflow

    rng = np.random.default_rng(0)
    patches = jnp.asarray(rng.normal(size=(2, CAPACITY * 4, 96)).astype(np.float32))
    for _ in range(3):
        grids = np.concatenate([np.ones((2, 3, 1)), 2 * rng.integers(1, 3, (2, 3, 2))], axis=-1)
        logits, overflow = run(params, patches, jnp.asarray(grids, jnp.int32))
        assert not overflow.any() and np.isfinite(logits).all()
    assert len(traces) == 1


@pytest.fixture(scope="module")
def embeds():
    return jnp.asarray(np.random.default_rng(3).normal(size=(2, 9, 24)).astype(np.float32))


def positions(length):
    return jnp.broadcast_to(jnp.arange(length)[None, None, :], (2, 3, length))


@jax.jit
def decode(params, embeds, position_ids, mask, cache=None):
    return text.forward(params, CONFIG, embeds, position_ids, mask, cache)


def test_poisoned_prompt_padding_changes_nothing(params, embeds):
    mask = jnp.arange(9)[None, :] < jnp.array([[9], [5]])
    poisoned = jnp.where(mask[:, :, None], embeds, jnp.nan)
    clean, _ = decode(params, embeds, positions(9), mask)
    hidden, _ = decode(params, poisoned, positions(9), mask)
    np.testing.assert_array_equal(hidden[0], clean[0])
    np.testing.assert_array_equal(hidden[1, :5], clean[1, :5])
    alone, _ = decode(params, embeds[:, :5], positions(5), jnp.ones((2, 5), bool))
    np.testing.assert_allclose(clean[1, :5], alone[1], atol=1e-5)


def test_chunks_with_a_cache_equal_one_pass(params, embeds):
    # Row 1 ends its first chunk with padding, which stays masked in the cache.
    whole, _ = decode(params, embeds, positions(9), jnp.ones((2, 9), bool))
    mask = jnp.arange(6)[None, :] < jnp.array([[6], [4]])
    first, cache = decode(params, embeds[:, :6], positions(6), mask)
    rest = jnp.stack([embeds[0, 6:9], embeds[1, 4:7]])
    at = positions(3) + jnp.array([6, 4])[:, None, None]
    second, cache = decode(params, rest, at, jnp.ones((2, 3), bool), cache.extend(5))
    assert cache.length == 9 and cache.mask.sum() == 9 + 7
    np.testing.assert_allclose(first[0], whole[0, :6], atol=1e-5)
    np.testing.assert_allclose(second[0], whole[0, 6:], atol=1e-5)
    np.testing.assert_allclose(second[1], whole[1, 4:7], atol=1e-5)


def test_bfloat16_keeps_its_dtype_and_stays_close(params, patches, embeds):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    exact = encode(params, padded(patches), plan(GRIDS))
    visual = encode(half, padded(patches), plan(GRIDS))
    hidden, cache = decode(half, embeds.astype(jnp.bfloat16), positions(9), jnp.ones((2, 9), bool))
    assert visual.dtype == hidden.dtype == cache.keys[0].dtype == jnp.bfloat16
    logits = text.logits(half, CONFIG, hidden)
    assert logits.dtype == jnp.float32
    # The head sums in float32 and does not round: what bfloat16 holds would come back unchanged.
    exact_products = hidden.astype(jnp.float32) @ half["lm_head"]["weight"].astype(jnp.float32).T
    np.testing.assert_allclose(logits, exact_products, rtol=1e-4, atol=1e-4)
    assert (logits != logits.astype(jnp.bfloat16)).mean() > 0.9
    # bfloat16 keeps 8 bits: about 0.4 % a rounding, over some dozens of roundings.
    error = jnp.linalg.norm(visual.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert error < 0.05
