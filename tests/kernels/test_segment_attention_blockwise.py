"""Attention in blocks against the dense definition, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.segment_attention import Places, blockwise
from kernels.segment_attention.blockwise import attend_blockwise

BATCH, HEADS, KV_HEADS = 2, 4, 2


def dense(query, key, value, visible):
    """The definition, in float64 numpy; 0 where nothing is seen."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    key, value = (np.repeat(x, query.shape[1] // x.shape[1], axis=1) for x in (key, value))
    scores = np.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
    scores = np.where(visible[:, None], scores, -np.inf)
    top = np.where(visible.any(-1)[:, None, :, None], scores.max(-1, keepdims=True), 0.0)
    weights = np.exp(scores - top)
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    return np.einsum("bhqk,bhkd->bhqd", weights, np.nan_to_num(value))


def dense_jax(query, key, value, visible):
    key, value = (jnp.repeat(x, query.shape[1] // x.shape[1], axis=1) for x in (key, value))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
    weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -1e30), axis=-1)
    weights = jnp.where(visible.any(-1)[:, None, :, None], weights, 0.0)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value)


def inputs(length, keys, dim, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = (BATCH, HEADS, length, dim), (BATCH, KV_HEADS, keys, dim), (BATCH, KV_HEADS, keys, dim)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def segments(length, cuts):
    """Row after row: runs of 1, 2, ... that end at the cuts, then padding."""
    ids = np.zeros((BATCH, length), np.int32)
    for row, ends in enumerate(cuts):
        start = 0
        for number, end in enumerate(ends, start=1):
            ids[row, start:end] = number
            start = end
    return ids


def packed(length):
    ids = segments(length, [(5, 21, length - 4), (13, length)])
    slots = np.zeros(length, np.int32)
    places = Places(*map(jnp.asarray, (ids, ids, slots, slots)))
    visible = (ids[:, :, None] == ids[:, None, :]) & (ids[:, None, :] != 0)
    return places, visible


def causal(length, keys):
    """The last ``length`` of ``keys`` positions ask; the second row has padding in front."""
    key_ids = np.ones((BATCH, keys), np.int32)
    key_ids[1, :3] = 0
    slots = np.arange(keys, dtype=np.int32)
    query_ids, query_slots = key_ids[:, keys - length :], slots[keys - length :]
    visible = (slots[None, :] <= query_slots[:, None])[None] & (key_ids[:, None, :] != 0)
    visible = visible & (query_ids[:, :, None] != 0)
    return Places(*map(jnp.asarray, (query_ids, key_ids, query_slots, slots))), visible


CASES = {
    "packed": (45, 45, packed(45)),
    "causal": (45, 45, causal(45, 45)),
    "chunk": (9, 40, causal(9, 40)),
    "one block": (7, 7, causal(7, 7)),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_the_dense_ones(case):
    length, keys, (places, visible) = CASES[case]
    query, key, value = inputs(length, keys, 8)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=query.shape), jnp.float32)

    def loss(attend, *arrays):
        out = attend(*arrays)
        return (out * weight).sum(), out

    def blocks(*arrays):
        return attend_blockwise(*arrays, places, block=16)

    run = jax.jit(jax.grad(lambda *x: loss(blocks, *x), argnums=(0, 1, 2), has_aux=True))
    gradients, out = run(query, key, value)
    np.testing.assert_allclose(out, dense(query, key, value, visible), atol=2e-6)
    expected, _ = jax.grad(
        lambda *x: loss(lambda *y: dense_jax(*y, jnp.asarray(visible)), *x),
        argnums=(0, 1, 2),
        has_aux=True,
    )(query, key, value)
    for got, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)
    seeing = visible.any(-1)
    assert (np.asarray(out)[~np.broadcast_to(seeing[:, None], out.shape[:3])] == 0).all()


@pytest.mark.parametrize("own_slots", [False, True])
def test_rows_of_a_vmap_are_a_longer_batch(own_slots):
    length, keys, (places, _) = CASES["causal" if own_slots else "packed"]
    arrays = inputs(length, keys, 8)
    slots = places.query_slot, places.key_slot
    slots = [jnp.broadcast_to(slot, (BATCH, length)) if own_slots else slot for slot in slots]
    axes = (0, 0, 0, Places(0, 0, *([0, 0] if own_slots else [None, None])))

    def whole(*arrays):
        return jnp.square(attend_blockwise(*arrays, places, block=16)).sum()

    def row(query, key, value, places):
        batch = (x[None] for x in (query, key, value))
        segments = places.query_segment[None], places.key_segment[None]
        return attend_blockwise(*batch, Places(*segments, *places[2:]), block=16)[0]

    def rows(*arrays):
        per_row = Places(places.query_segment, places.key_segment, *slots)
        return jnp.square(jax.vmap(row, in_axes=axes)(*arrays, per_row)).sum()

    expected = jax.jit(jax.grad(whole, argnums=(0, 1, 2)))(*arrays)
    gradient = jax.jit(jax.grad(rows, argnums=(0, 1, 2)))
    for got, wanted in zip(gradient(*arrays), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    # Blocks at a row's own place in the sequence could only be gathered.
    assert (" gather[" in str(gradient.trace(*arrays).jaxpr)) is own_slots


def test_what_is_not_in_place_would_show():
    length, keys, (places, visible) = CASES["packed"]
    arrays = inputs(length, keys, 8)
    for other in (
        places._replace(key_slot=jnp.arange(keys)),  # as if causal
        places._replace(query_segment=jnp.ones_like(places.query_segment)),
    ):
        out = jax.jit(partial(attend_blockwise, block=16))(*arrays, other)
        assert np.abs(out - dense(*arrays, visible)).max() > 0.1


def test_padding_poisoned_with_nan_changes_nothing():
    length, keys, (places, _) = CASES["packed"]
    query, key, value = inputs(length, keys, 8)
    hole = (places.key_segment == 0)[:, None, :, None]
    poisoned = [jnp.where(hole, jnp.nan, x) for x in (key, value)]

    def loss(key, value):
        return jnp.square(attend_blockwise(query, key, value, places, block=16)).sum()

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    clean, dirty = run(key, value), run(*poisoned)
    for x, y in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_array_equal(x, y)


def test_bfloat16_stays_as_near_as_its_inputs():
    length, keys, (places, visible) = CASES["causal"]
    arrays = inputs(length, keys, 8, dtype=jnp.bfloat16)
    out = attend_blockwise(*arrays, places, block=16)
    assert out.dtype == jnp.bfloat16
    # Weights and values are rounded to 8 bits, the result once more: 2⁻⁸ of values up to 3 each.
    exact = dense(*(x.astype(jnp.float32) for x in arrays), visible)
    assert np.abs(out.astype(jnp.float32) - exact).max() < 3 * 3 * 2**-8


@pytest.mark.parametrize("differentiate", [False, True])
def test_memory_grows_with_the_length_not_its_square(differentiate):
    def temporary(length):
        ids = jnp.ones((1, length), jnp.int32)
        places = Places(ids, ids, jnp.arange(length), jnp.arange(length))
        x = jax.ShapeDtypeStruct((1, 1, length, 64), jnp.float32)

        def run(query, key, value):
            return attend_blockwise(query, key, value, places, block=128).sum()

        function = jax.grad(run, argnums=(0, 1, 2)) if differentiate else run
        return jax.jit(function).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    short, long = temporary(1024), temporary(4096)
    assert long < 5 * short  # four times the length; the square would be sixteen times
    assert long < 4096 * 4096 * 4 / 4  # and far from one T x S array


def test_blocks_without_a_visible_key_are_not_computed(monkeypatch):
    # Were their scores asked for, these would put NaN into every sum.
    length, block = 64, 16
    ids = jnp.asarray(np.repeat(np.arange(1, 5), 16)[None].repeat(BATCH, 0))
    slots = jnp.zeros(length, jnp.int32)
    arrays = inputs(length, length, 8)
    places = Places(ids, ids, slots, slots)
    wanted = attend_blockwise(*arrays, places, block=block)
    honest = blockwise._scores

    def broken(query, key, visible):
        return jnp.where(visible.any(), honest(query, key, visible), jnp.nan)

    monkeypatch.setattr(blockwise, "_scores", broken)
    np.testing.assert_array_equal(attend_blockwise(*arrays, places, block=block), wanted)
