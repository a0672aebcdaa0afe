"""Masked attention and attention within segments against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.segment_attention import attend_within_segments
from kernels.segment_attention.reference import attend

within = jax.jit(attend_within_segments)


def softmax(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def qkv(rng, length, heads, kv_heads, dim=8):
    shapes = [(length, heads, dim), (length, kv_heads, dim), (length, kv_heads, dim)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_grouped_heads_share_keys_in_order():
    rng = np.random.default_rng(0)
    query, key, value = qkv(rng, 5, 6, 2)
    mask = rng.random((5, 5)) < 0.6
    mask |= np.eye(5, dtype=bool)
    heads_first = (x.swapaxes(0, 1)[None] for x in (query, key, value))
    out = jax.jit(attend)(*heads_first, jnp.asarray(mask)[None])[0].swapaxes(0, 1)
    for head in range(6):
        # Query heads 0-2 read key head 0, heads 3-5 read key head 1 (HF's repeat_kv).
        scores = query[:, head] @ key[:, head // 3].T / np.sqrt(8)
        expected = softmax(np.where(mask, scores, -np.inf)) @ value[:, head // 3]
        np.testing.assert_allclose(out[:, head], expected, atol=1e-6)


def segments(rng, longest, length):
    """Contiguous ids, the first run and the last of the full length, then padding."""
    sizes = [longest]
    while (size := int(rng.integers(1, longest + 1))) <= length - sum(sizes) - longest:
        sizes.append(size)
    sizes.append(longest)
    ids = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    return np.pad(ids, (0, length - len(ids)))


# 130 positions are computed at once, 600 in blocks.
@pytest.mark.parametrize("longest, length", [(7, 101), (16, 130), (1, 12), (60, 600), (300, 600)])
def test_every_segment_sees_itself_alone(longest, length):
    rng = np.random.default_rng(longest)
    query, key, value = qkv(rng, length, 2, 2)
    for _ in range(4):
        ids = segments(rng, longest, length)
        out = np.asarray(within(query, key, value, ids))
        for segment in range(1, ids.max() + 1):
            at = ids == segment
            for head in range(2):
                scores = query[at, head] @ key[at, head].T / np.sqrt(8)
                np.testing.assert_allclose(
                    out[at, head], softmax(scores) @ value[at, head], atol=1e-5
                )
        assert np.isfinite(out).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"query": np.zeros((4, 3, 8))}, "the heads of the query be a multiple"),
        ({"query": np.zeros((5, 2, 8))}, "query and key must agree in length and head size"),
        (
            {"query": np.zeros((4, 8))},
            r"query must be \[P, Hq, D\], key and value \[P, Hk, D\]: got",
        ),
        ({"query": np.zeros((4, 2, 0))}, r"query is empty, its shape is \(4, 2, 0\)"),
        ({"query": None}, "query must be an array of numbers, got NoneType"),
        ({"segment_ids": [1, 1, 2]}, r"segment_ids must be integers \(4,\), got int32 \(3,\)"),
        ({"segment_ids": [1.0] * 4}, r"segment_ids must be integers \(4,\), got float32"),
    ],
)
def test_what_does_not_fit_together_is_named(change, message):
    x = np.zeros((4, 2, 8), np.float32)
    good = {"query": x, "key": x, "value": x, "segment_ids": [1, 1, 2, 0]}
    with pytest.raises(ValueError, match=message):
        attend_within_segments(**good | change)


def test_gradient_is_finite_with_padding():
    rng = np.random.default_rng(0)
    query, key, value = qkv(rng, 40, 2, 2)
    ids = jnp.asarray(np.repeat([1, 2, 3, 0], [4, 3, 2, 31]))

    def total(*inputs):
        return jnp.sum(attend_within_segments(*inputs, ids)[:9] ** 2)

    for gradient in jax.jit(jax.grad(total, argnums=(0, 1, 2)))(query, key, value):
        assert np.isfinite(gradient).all() and np.abs(gradient[:9]).max() > 0
        assert not np.any(gradient[9:])


def test_the_softmax_of_half_precision_is_taken_in_float32():
    """Scores of some tens, whose rounding to 8 bits would be a factor of e^0.1 in a weight."""
    rng = np.random.default_rng(0)
    query, key, value = jnp.asarray(rng.normal(size=(3, 1, 2, 24, 64)), jnp.bfloat16)
    query = 6 * query
    mask = jnp.ones((1, 24, 24), bool)
    ours = attend(query, key, value, mask).astype(jnp.float32)
    exact = attend(*(x.astype(jnp.float32) for x in (query, key, value)), mask)
    assert jnp.abs(ours - exact).max() < 0.02  # of values of about 2: their own rounding
