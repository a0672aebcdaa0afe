"""Rope, gates, pooling, head and units, each by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.allocator import (
    HardClamp,
    LogisticNormalBounds,
    ProjectedBounds,
    SoftBounds,
    pair_mask,
    pair_mean,
    pair_scales,
)
from resadapt_jax.allocator.head import PolicyHead
from resadapt_jax.allocator.layers import SelfAttention, TextLayer, apply_rope
from resadapt_jax.allocator.pooling import QueryPooling, cosine, masked_mean, text_summary


def test_rope_by_hand():
    # One head of 6 dimensions of which 4 turn: pairs (0, 2) at position · 1, (1, 3) at
    # position · 100^(−1/2) = position / 10; dimensions 4 and 5 stay.
    x = np.arange(1.0, 19.0).reshape(3, 1, 6)
    expected, positions = x.copy(), [0, 1, 5]
    for place, position in enumerate(positions):
        for i, angle in ((0, position), (1, position / 10)):
            a, b = x[place, 0, i], x[place, 0, i + 2]
            expected[place, 0, i] = a * np.cos(angle) - b * np.sin(angle)
            expected[place, 0, i + 2] = b * np.cos(angle) + a * np.sin(angle)
    got = apply_rope(jnp.float32(x)[None], jnp.array([positions]), rotary_dims=4, theta=100.0)
    np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-5)


def test_rope_scores_depend_on_distance_only():
    same = jnp.ones((1, 6, 1, 8)) * jnp.arange(1.0, 9.0)[None, None, None, :]
    turned = apply_rope(same, jnp.arange(6)[None], rotary_dims=8, theta=10.0)[0, :, 0]
    scores = np.asarray(turned @ turned.T)
    for distance in range(6):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-5)
    assert scores[0, 0] > scores[0, 1] + 1.0


@pytest.mark.parametrize("axis", [1, 2])
def test_rope_is_what_makes_order_count(axis):
    x = jax.random.normal(jax.random.key(0), (1, 4, 3, 8))

    def reversal_error(rotary_dims):
        layer = SelfAttention(axis, 2, 4, rotary_dims, 10.0, jnp.float32)
        apply = jax.jit(layer.apply)
        params = jax.jit(layer.init)(jax.random.key(1), x)
        backward = jnp.flip(apply(params, jnp.flip(x, axis)), axis)
        return np.abs(apply(params, x) - backward).max()

    assert reversal_error(4) > 1e-2
    assert reversal_error(0) < 1e-6


def test_attention_stays_on_its_axis():
    x = jax.random.normal(jax.random.key(0), (1, 4, 3, 8))
    changed = x.at[0, 1, 2].set(9.0)
    for axis, others in ((1, np.s_[0, :, :2]), (2, np.s_[0, [0, 2, 3], :])):
        layer = SelfAttention(axis, 2, 4, 4, 10.0, jnp.float32)
        apply = jax.jit(layer.apply)
        params = jax.jit(layer.init)(jax.random.key(1), x)
        change = np.abs(apply(params, changed) - apply(params, x))
        np.testing.assert_array_equal(change[others], 0.0)
        assert (change[0, 0, 2] > 0).any() if axis == 1 else (change[0, 1, 0] > 0).any()


@pytest.mark.parametrize("gated", [True, False])
def test_the_papers_gate_starts_closed(gated):
    layer = TextLayer(2, 4, 2, gated, jnp.float32)
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 8))
    text = jax.random.normal(jax.random.key(1), (1, 2, 8))
    mask = jnp.ones((1, 2), bool)
    params = jax.jit(layer.init)(jax.random.key(2), x, text, mask)
    apply = jax.jit(layer.apply)
    output = apply(params, x, text, mask)
    other = apply(params, x, -text, mask)
    if not gated:
        assert np.abs(output - other).max() > 1e-2
        return
    np.testing.assert_array_equal(output, x)
    np.testing.assert_array_equal(other, x)
    square = jax.jit(jax.grad(lambda p: jnp.square(layer.apply(p, x, text, mask)).sum()))
    grads = square(params)["params"]
    assert abs(grads["attention_gate"]) > 1e-3 and abs(grads["feed_forward_gate"]) > 1e-3
    # tanh 0.5 = 0.462117 of the ungated residual
    opened = {"params": {**params["params"], "attention_gate": jnp.float32(0.5)}}
    full = {"params": {**params["params"], "attention_gate": jnp.float32(20.0)}}
    residual = [apply(p, x, text, mask) - x for p in (opened, full)]
    np.testing.assert_allclose(residual[0], 0.462117 * residual[1], rtol=1e-4, atol=1e-6)


def test_soft_bounds_by_hand():
    bounds = SoftBounds(lower=0.1, upper=20.0)
    # At |y| = r the exponent is half of r: √20 above, √0.1 below; e^(r/(r+1)) at y = 1, r = ln 20.
    y = jnp.float32([0.0, np.log(20.0), -np.log(10.0), 1.0])
    expected = [1.0, 4.472136, 0.316228, 2.116435]
    np.testing.assert_allclose(bounds(y), expected, rtol=1e-6)
    assert bounds(jnp.float32(0.0)) == 1.0
    slope = jax.grad(bounds)
    np.testing.assert_allclose([slope(0.0), slope(-1e-6), slope(1e-6)], 1.0, rtol=1e-5)


def test_only_the_hard_clamp_loses_its_gradient():
    outputs = jnp.float32([-1e4, -100.0, -10.0, 0.0, 10.0, 100.0, 1e4])
    soft, hard = SoftBounds(), HardClamp()
    for bounds in (soft, hard):
        values = bounds(outputs)
        assert (values >= 0.1 - 1e-6).all() and (values <= 20.0 + 1e-5).all()
        assert (jnp.diff(values) >= 0).all()
    assert (jax.vmap(jax.grad(soft))(outputs) > 1e-9).all()
    # softplus(−5) = 0.0067 is below 0.1 and softplus(50) above 20; softplus(0) and (5) are inside.
    zero = np.asarray(jax.vmap(jax.grad(hard))(outputs)) == 0.0
    np.testing.assert_array_equal(zero, [True, True, True, False, False, True, True])


def test_projected_bounds_by_hand():
    bounds = ProjectedBounds(lower=0.5, upper=4.0)
    y = jnp.float32([-2.0, np.log(0.5), 0.0, np.log(3.0), np.log(4.0), 9.0])
    np.testing.assert_allclose(bounds(y), [0.5, 0.5, 1.0, 3.0, 4.0, 4.0], rtol=1e-6)
    # Descent on +α lowers y: dropped at the lower bound, passed elsewhere with slope α. On −α the
    # other way round.
    down = jax.grad(lambda y: bounds(y).sum())(y)
    np.testing.assert_allclose(down, [0.0, 0.0, 1.0, 3.0, 4.0, 4.0], rtol=1e-6)
    up = jax.grad(lambda y: -bounds(y).sum())(y)
    np.testing.assert_allclose(up, [-0.5, -0.5, -1.0, -3.0, 0.0, 0.0], rtol=1e-6)


def test_logistic_normal_bounds_by_hand():
    bounds = LogisticNormalBounds(lower=0.5, upper=2.0, start_action=0.2)
    # ln(.2 / .8) = −1.386294; softplus(ln(e^.7 − 1)) = .7
    np.testing.assert_allclose(bounds.biases, [-1.386294, np.log(np.exp(0.7) - 1)], atol=1e-5)
    # softplus(0) = ln 2, and −9 and 9 are beyond softplus⁻¹ of the bounds.
    y = jnp.float32([[3.0, 0.0], [-50.0, -9.0], [50.0, 9.0]])
    policy = bounds.policy(y)
    np.testing.assert_array_equal(policy.mu, y[:, 0])
    np.testing.assert_allclose(policy.sigma, [np.log(2.0), 0.5, 2.0], rtol=2e-6)
    # Descent on +σ lowers y: dropped at the lower bound; at the upper one the slope 1 − e^−σ.
    down = jax.grad(lambda y: bounds.policy(y).sigma.sum())(y)[:, 1]
    np.testing.assert_allclose(down, [0.5, 0.0, 1 - np.exp(-2.0)], rtol=1e-5)
    up = jax.grad(lambda y: -bounds.policy(y).sigma.sum())(y)[:, 1]
    np.testing.assert_allclose(up, [-0.5, -(1 - np.exp(-0.5)), 0.0], rtol=1e-5)


@pytest.mark.parametrize("bounds, returns", [(ProjectedBounds(), True), (HardClamp(), False)])
def test_only_projected_bounds_come_back(bounds, returns):
    # Plain descent of (ln α)², whose minimum is the uniform policy, from far outside both ends.
    gradient = jax.jit(jax.grad(lambda y: jnp.square(jnp.log(bounds(y))).sum()))
    y = jnp.float32([-60.0, 60.0])
    for _ in range(400):
        y = y - 0.4 * gradient(y)
    np.testing.assert_equal(bool(jnp.allclose(bounds(y), 1.0, atol=1e-2)), returns)


def test_hard_clamp_by_hand():
    # softplus(0) = ln 2; softplus(2) = 2.126928; the bias 2 ln(e − 1) = 1.082650 gives 1.
    hard = HardClamp()
    np.testing.assert_allclose(hard(jnp.float32([0.0, 4.0])), [0.693148, 2.126929], rtol=1e-6)
    np.testing.assert_allclose(hard.bias, 1.082650, rtol=1e-5)
    np.testing.assert_allclose(hard(jnp.float32(hard.bias)), 1.0, atol=2e-6)
    one = HardClamp(add_one=True)
    # softplus(−10) = 4.54e-5, and that is the slope too (times 1/2): a nearly dead start.
    np.testing.assert_allclose(one(jnp.float32(one.bias)), 1.0000464, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(one)(one.bias), 2.27e-5, rtol=1e-2)


def test_a_logistic_normal_starts_as_told_and_can_move():
    head = PolicyHead(5, LogisticNormalBounds(start_action=0.25), "uniform")
    features = jax.random.normal(jax.random.key(0), (2, 3, 4))
    mask = jnp.array([[True, True, True], [True, False, False]])
    params = head.init(jax.random.key(1), features, mask)

    def total(params):
        policy = head.apply(params, features, mask)
        return policy.mu.sum() + policy.sigma.sum(), policy

    grads, policy = jax.jit(jax.grad(total, has_aux=True))(params)
    # The median is sigmoid(μ) = 1/4, so μ = −ln 3; a unit that does not exist has the same.
    np.testing.assert_allclose(policy.mu, np.full((2, 3), -np.log(3.0)), rtol=1e-6)
    np.testing.assert_allclose(policy.sigma, np.full((2, 3), 0.7), rtol=1e-6)
    # softplus'(y) = 1 − exp(−softplus(y)) = 1 − e^−.7 = .503415, for each of the 4 units there are.
    grads = grads["params"]
    np.testing.assert_allclose(grads["out"]["bias"], [4.0, 4 * 0.503415], rtol=1e-5)
    for branch in ("out", "skip"):
        assert (np.abs(grads[branch]["kernel"]).max(axis=0) > 1e-3).all()


@pytest.mark.parametrize("bounds", [ProjectedBounds(), LogisticNormalBounds()])
def test_the_head_stays_float32_on_bfloat16_features(bounds):
    head = PolicyHead(5, bounds, "released")
    features = jax.random.normal(jax.random.key(0), (2, 3, 4), jnp.bfloat16)
    mask = jnp.ones((2, 3), bool)
    apply = jax.jit(head.apply)
    params = jax.jit(head.init)(jax.random.key(1), features, mask)
    got = apply(params, features, mask)
    expected = apply(params, features.astype(jnp.float32), mask)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, y, rtol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [{"start_action": 0.0}, {"start_action": 1.0}, {"lower": 0.0}, {"lower": 0.8}, {"upper": 0.7}],
)
def test_a_logistic_normal_starts_inside_its_bounds(fields):
    with pytest.raises(ValueError, match="start_"):
        LogisticNormalBounds(**fields)


@pytest.mark.parametrize("lower, upper", [(0.0, 20.0), (1.0, 20.0), (0.1, 1.0)])
def test_bounds_must_enclose_one(lower, upper):
    for bounds in (ProjectedBounds, SoftBounds, HardClamp):
        with pytest.raises(ValueError, match="lower < 1 < upper"):
            bounds(lower=lower, upper=upper)


def test_cosine_of_a_zero_vector_is_zero_with_a_zero_gradient():
    zero, x = jnp.zeros(3), jnp.float32([3.0, 0.0, 4.0])
    assert cosine(zero, x) == 0.0
    np.testing.assert_allclose(cosine(x, jnp.float32([1.0, 0.0, 0.0])), 0.6, rtol=1e-6)
    for gradient in jax.grad(cosine, argnums=(0, 1))(zero, x):
        np.testing.assert_array_equal(gradient, 0.0)


def test_text_summary_by_hand():
    # D = 4: logits m·e/2 = (ln 3, 0), weights (3/4, 1/4); the third token is masked.
    text = jnp.float32([[[2, 0, 0, 0], [0, 4, 0, 0], [9, 9, 9, 9]]])
    mask = jnp.array([[True, True, False]])
    query = jnp.float32([[[np.log(3.0), 0, 0, 0]]])
    np.testing.assert_allclose(text_summary(query, text, mask), [[[1.5, 1, 0, 0]]], rtol=1e-6)
    np.testing.assert_array_equal(text_summary(query, text, jnp.zeros((1, 3), bool)), 0.0)
    np.testing.assert_allclose(masked_mean(text, mask), [[1, 2, 0, 0]])
    np.testing.assert_array_equal(masked_mean(text, jnp.zeros((1, 3), bool)), 0.0)


def test_indifferent_pooling_is_the_mean():
    hidden = jnp.float32([[[[1, 2], [3, 4], [5, 6], [7, 8]]]])
    pool = QueryPooling(width=3, temperature=1.0)
    args = (hidden, jnp.ones((1, 1, 2)), jnp.ones((1, 1), bool))
    params = jax.tree.map(jnp.zeros_like, pool.init(jax.random.key(0), *args))
    pooled = pool.apply(params, *args)
    np.testing.assert_allclose(pooled.tokens, [[[4, 5]]])
    np.testing.assert_allclose(pooled.spread, [[5.0]])  # (9 + 1 + 1 + 9) / 4 in both channels
    np.testing.assert_allclose(pooled.gate_entropy, [[np.log(4.0)]], rtol=1e-6)
    np.testing.assert_allclose(pooled.gate_peak, [[0.25]])


def test_pairs_by_hand():
    mask = jnp.array([[True] * 5, [True, True, True, False, False]])
    values = jnp.float32([[1, 2, 3, 4, 5], [1, 2, 3, jnp.nan, jnp.nan]])
    # An odd last frame stands alone; a pair's padded frame does not enter; an empty pair gives 0.
    expected = [[1.5, 3.5, 5.0], [1.5, 3.0, 0.0]]
    np.testing.assert_allclose(pair_mean(values, mask), expected)
    np.testing.assert_array_equal(pair_mask(mask), [[1, 1, 1], [1, 1, 0]])
    scales = jnp.stack([values, 2 * values], axis=1)
    np.testing.assert_allclose(
        pair_scales(scales, mask), np.stack([expected, 2 * np.array(expected)], axis=1)
    )
    deep = jnp.broadcast_to(values[:, :, None, None], (2, 5, 3, 2))
    assert pair_mean(deep, mask).shape == (2, 3, 3, 2)
