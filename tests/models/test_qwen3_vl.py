"""Properties of the Qwen3-VL port that hold for any weights: padding, order, gradients, caching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from resadapt_jax.models.prompt_layout import expand_prompt
from resadapt_jax.models.qwen3_vl import model, text, vision
from resadapt_jax.models.qwen3_vl.config import Qwen3VLConfig, TextConfig, VisionConfig
from resadapt_jax.models.vision_plan import plan_vision

CONFIG = Qwen3VLConfig(
    text=TextConfig(
        vocab_size=24,
        hidden_size=24,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=10,
        mrope_section=(3, 1, 1),
    ),
    vision=VisionConfig(
        depth=3,
        hidden_size=16,
        intermediate_size=12,
        num_heads=2,
        out_hidden_size=24,
        deepstack_visual_indexes=(0, 2),
        num_position_embeddings=25,
        patch_size=4,
    ),
    image_token_id=20,
    video_token_id=21,
    vision_start_token_id=22,
    vision_end_token_id=23,
)
# 6 + 4 + 2 = 12 tokens.
GRIDS = np.array([[1, 4, 6], [1, 4, 4], [1, 2, 4]], np.int32)
COUNTS = GRIDS.prod(axis=1)
CAPACITY = 16
# vision start, placeholder and end of three entries between text.
IDS = np.array([5, 22, 21, 23, 22, 21, 23, 22, 21, 23, 6])
ENTRIES = np.array([-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1])


@pytest.fixture(scope="module")
def params():
    """Random weights; biases and norms too, so that every one of them matters."""
    rng, tensors = np.random.default_rng(1), {}
    for key, shape in model.param_shapes(CONFIG).items():
        noise = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            noise = 0.3 * noise + ("norm" in key and key.endswith("weight"))
        elif "embed" not in key or "proj" in key:
            noise = noise * np.float32(np.prod(shape[1:]) ** -0.5)
        tensors[key] = jnp.asarray(noise)
    return traverse_util.unflatten_dict(tensors, sep=".")


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


def each(features):
    return [features.tokens, *features.deepstack]


def test_there_is_one_deepstack_feature_per_tap(params, patches):
    features = encode(params, padded(patches), plan(GRIDS))
    assert [x.shape for x in each(features)] == [(CAPACITY, 24)] * 3
    assert all(np.any(a != b) for a, b in zip(each(features), each(features)[1:], strict=False))


def test_poisoned_padding_changes_nothing(params, patches):
    clean = encode(params, padded(patches), plan(GRIDS))
    poisoned = encode(params, padded(patches, fill=np.nan), plan(GRIDS))
    for a, b in zip(each(clean), each(poisoned), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all() and not np.any(a[12:])


def test_capacity_changes_nothing(params, patches):
    loose = encode(params, padded(patches), plan(GRIDS))
    tight = encode(params, padded(patches, 12), plan(GRIDS, 12))
    for a, b in zip(each(loose), each(tight), strict=True):
        np.testing.assert_allclose(a[:12], b, atol=1e-5)


def test_permuting_entries_permutes_tokens(params, patches):
    order = [2, 0, 1]
    by_entry = np.split(patches, np.cumsum(COUNTS)[:-1])
    moved = np.concatenate([by_entry[i] for i in order])
    straight = encode(params, padded(patches), plan(GRIDS))
    permuted = encode(params, padded(moved), plan(GRIDS[order]))
    for a, b in zip(each(straight), each(permuted), strict=True):
        by_entry = np.split(np.asarray(a[:12]), np.cumsum(COUNTS // 4)[:-1])
        np.testing.assert_allclose(b[:12], np.concatenate([by_entry[i] for i in order]), atol=1e-5)


def test_temporal_patches_do_not_see_each_other(params, patches):
    # Two temporal patches of one grid of 2 x 3 tokens; patches 0-23 are the first.
    grids = np.array([[2, 4, 6]], np.int32)
    values = np.concatenate([patches, patches])[:48]
    changed = values.copy()
    changed[:24] += 1.0
    before = encode(params, padded(values), plan(grids))
    after = encode(params, padded(changed), plan(grids))
    for a, b in zip(each(before), each(after), strict=True):
        assert np.abs(b[:6] - a[:6]).min(axis=1).max() > 1e-3
        np.testing.assert_array_equal(a[6:], b[6:])


def test_gradients_are_finite_and_padding_gets_none(params, patches):
    weights = jax.random.normal(jax.random.key(2), (3, CAPACITY, 24))

    @jax.jit
    def gradients(params, patches, plan):
        def total(params, patches):
            features = vision.encode(params, CONFIG, patches, plan)
            return sum(jnp.sum(w * x) for w, x in zip(weights, each(features), strict=True))

        return jax.grad(total, argnums=(0, 1))(params, patches)

    by_params, by_patches = gradients(params, padded(patches, fill=np.nan), plan(GRIDS))
    for gradient in jax.tree.leaves(by_params["model"]["visual"]):
        assert np.isfinite(gradient).all() and np.any(gradient)
    count = COUNTS.sum()
    assert np.isfinite(by_patches).all() and not np.any(by_patches[count:])
    assert np.abs(by_patches[:count]).max(axis=1).min() > 0


def lay_out(grids):
    return expand_prompt(
        jnp.asarray(IDS),
        jnp.int32(len(IDS)),
        jnp.asarray(ENTRIES),
        grids,
        jnp.ones(3),
        capacity=CAPACITY + 8,
    )


def test_one_compilation_serves_every_allocation(params):
    traces = []

    @jax.jit
    def run(params, patches, grids):
        traces.append(1)
        tables, layout = jax.vmap(plan)(grids), jax.vmap(lay_out)(grids)
        hidden = model.forward(params, CONFIG, patches, tables, layout)
        return text.logits(params, CONFIG, hidden), tables.overflow | layout.overflow

    rng = np.random.default_rng(0)
    patches = jnp.asarray(rng.normal(size=(2, CAPACITY * 4, 96)).astype(np.float32))
    for _ in range(3):
        grids = np.concatenate([np.ones((2, 3, 1)), 2 * rng.integers(1, 3, (2, 3, 2))], axis=-1)
        logits, overflow = run(params, patches, jnp.asarray(grids, jnp.int32))
        assert not overflow.any() and np.isfinite(logits).all()
    assert len(traces) == 1


def test_rows_carry_every_feature_to_its_position(params, patches):
    tables, layout = plan(GRIDS), lay_out(jnp.asarray(GRIDS))
    features = encode(params, padded(patches), tables)

    @jax.jit
    def place(params, patches, tables, layout):
        rows = model.encode_visual(params, CONFIG, patches, tables)
        return model.embed_prompt(params, CONFIG, *jax.tree.map(lambda x: x[None], (layout, rows)))

    embeds = place(params, padded(patches), tables, layout)
    visual = np.asarray(layout.visual_index) >= 0
    assert visual.sum() == 12
    for placed, feature in zip([embeds.embeds, *embeds.deepstack], each(features), strict=True):
        np.testing.assert_allclose(placed[0][visual], feature[:12], atol=1e-5)
    for placed in embeds.deepstack:
        assert not np.any(placed[0][~visual])
    words = text.embed_tokens(params, layout.token_ids[None])[0]
    np.testing.assert_array_equal(embeds.embeds[0][~visual], words[~visual])


@pytest.fixture(scope="module")
def prompt():
    """Embeddings and deepstack features of two prompts of 9 positions."""
    rng = np.random.default_rng(3)
    embeds, *deepstack = jnp.asarray(rng.normal(size=(3, 2, 9, 24)).astype(np.float32))
    return embeds, tuple(deepstack)


def positions(length):
    return jnp.broadcast_to(jnp.arange(length)[None, None, :], (2, 3, length))


@jax.jit
def decode(params, embeds, position_ids, mask, cache=None, deepstack=()):
    return text.forward(params, CONFIG, embeds, position_ids, mask, cache, deepstack)


def test_poisoned_prompt_padding_changes_nothing(params, prompt):
    mask = jnp.arange(9)[None, :] < jnp.array([[9], [5]])
    embeds, deepstack = prompt
    poisoned = jax.tree.map(lambda x: jnp.where(mask[:, :, None], x, jnp.nan), prompt)
    clean, _ = decode(params, embeds, positions(9), mask, None, deepstack)
    hidden, _ = decode(params, poisoned[0], positions(9), mask, None, poisoned[1])
    np.testing.assert_array_equal(hidden[0], clean[0])
    np.testing.assert_array_equal(hidden[1, :5], clean[1, :5])


def test_chunks_with_a_cache_equal_one_pass(params, prompt):
    # Row 1 ends its first chunk with padding, which stays masked in the cache.
    embeds, deepstack = prompt
    whole, _ = decode(params, embeds, positions(9), jnp.ones((2, 9), bool), None, deepstack)
    mask = jnp.arange(6)[None, :] < jnp.array([[6], [4]])
    first, cache = decode(
        params, embeds[:, :6], positions(6), mask, None, tuple(x[:, :6] for x in deepstack)
    )

    def rest(x):
        return jnp.stack([x[0, 6:9], x[1, 4:7]])

    at = positions(3) + jnp.array([6, 4])[:, None, None]
    second, cache = decode(
        params,
        rest(embeds),
        at,
        jnp.ones((2, 3), bool),
        cache.extend(5),
        tuple(map(rest, deepstack)),
    )
    assert cache.length == 9 and cache.mask.sum() == 9 + 7
    np.testing.assert_allclose(first[0], whole[0, :6], atol=1e-5)
    np.testing.assert_allclose(second[0], whole[0, 6:], atol=1e-5)
    np.testing.assert_allclose(second[1], whole[1, 4:7], atol=1e-5)


def test_bfloat16_keeps_its_dtype_and_stays_close(params, patches, prompt):
    half, (embeds, deepstack) = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, prompt))
    exact = encode(params, padded(patches), plan(GRIDS))
    features = encode(half, padded(patches), plan(GRIDS))
    mask = jnp.ones((2, 9), bool)
    hidden, cache = decode(half, embeds, positions(9), mask, None, deepstack)
    assert hidden.dtype == cache.keys[0].dtype == jnp.bfloat16
    assert text.logits(half, CONFIG, hidden).dtype == jnp.float32
    for ours, expected in zip(each(features), each(exact), strict=True):
        assert ours.dtype == jnp.bfloat16
        # bfloat16 keeps 8 bits: about 0.4 % a rounding, over some dozens of roundings.
        error = jnp.linalg.norm(ours.astype(jnp.float32) - expected) / jnp.linalg.norm(expected)
        assert error < 0.05
