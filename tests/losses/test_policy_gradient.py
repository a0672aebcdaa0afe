"""The clipped surrogate: values, gradients, boundaries, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from resadapt_jax.losses import clipped_surrogate, importance_weight

# Each row: ratio, advantage, loss, dloss/dlog_prob, and which clip removed the gradient. With
# range [.8, 1.28] and dual clip 3. Where nothing clips, loss = -r·A and its derivative too, since
# dr/dlog r = r.
CASES = [
    (1.0, 2.0, -2.0, -2.0, None),
    (1.0, -2.0, 2.0, 2.0, None),
    (1.2, 2.0, -2.4, -2.4, None),
    (1.25, 2.0, -2.5, -2.5, None),  # a symmetric range of .2 would give -2.4 and 0
    (1.5, 2.0, -2.56, 0.0, "clipped_high"),  # 1.28·2
    (0.5, 2.0, -1.0, -1.0, None),  # a good action that became rarer is still pushed up
    (0.5, -2.0, 1.6, 0.0, "clipped_low"),  # .8·2
    (0.9, -2.0, 1.8, 1.8, None),
    (1.5, -2.0, 3.0, 3.0, None),  # a bad action that became likelier is pushed down
    (2.9, -2.0, 5.8, 5.8, None),
    (5.0, -2.0, 6.0, 0.0, "dual_clipped"),  # 3·2; without the dual clip 10
    (5.0, 2.0, -2.56, 0.0, "clipped_high"),
    (0.1, 0.0, 0.0, 0.0, None),
    (5.0, 0.0, 0.0, 0.0, None),
]
RATIO, ADVANTAGE, LOSS, GRADIENT = (
    jnp.array([case[column] for case in CASES], jnp.float32) for column in range(4)
)
OLD = jnp.linspace(-3.0, 2.0, len(CASES))


def _surrogate(log_probs, old=OLD, advantages=ADVANTAGE, mask=None):
    return clipped_surrogate(log_probs, old, advantages, mask, dual_clip=3.0)


def _gradient(function, at):
    return jax.grad(lambda x: function(x)[0].sum())(at)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap], ids=["eager", "jit", "vmap"])
def test_values_gradients_and_indicators(wrap):
    log_probs = OLD + jnp.log(RATIO)
    loss, aux = wrap(_surrogate)(log_probs, OLD, ADVANTAGE)
    np.testing.assert_allclose(loss, LOSS, atol=1e-5)
    np.testing.assert_allclose(aux.ratio, RATIO, rtol=1e-5)
    for name in ("clipped_high", "clipped_low", "dual_clipped"):
        np.testing.assert_array_equal(getattr(aux, name), [case[4] == name for case in CASES])
    gradient = jax.grad(lambda x: wrap(_surrogate)(x, OLD, ADVANTAGE)[0].sum())(log_probs)
    np.testing.assert_allclose(gradient, GRADIENT, atol=1e-5)


def test_loss_is_the_formula():
    rng = np.random.default_rng(0)
    log_ratio, advantages = rng.normal(0.0, 1.2, 500), rng.normal(0.0, 2.0, 500)
    ratio = np.exp(log_ratio)
    expected = np.minimum(ratio * advantages, np.clip(ratio, 0.7, 1.4) * advantages)
    expected = np.where(advantages < 0, np.maximum(expected, 4.0 * advantages), expected)
    loss, _ = clipped_surrogate(
        log_ratio, np.zeros(500), advantages, clip_low=0.3, clip_high=0.4, dual_clip=4.0
    )
    np.testing.assert_allclose(loss, -expected, rtol=1e-5, atol=1e-5)


def test_gradient_by_finite_differences_away_from_the_clips():
    inside = jnp.array([0.85, 0.95, 1.05, 1.2, 2.0])
    advantages = jnp.array([-1.0, 0.5, -2.0, 1.5, -0.7])
    old = jnp.array([-1.0, 0.0, 0.3, -0.2, 0.1])
    check_grads(
        lambda x: clipped_surrogate(x, old, advantages)[0].sum(),
        (old + jnp.log(inside),),
        order=1,
        modes=("rev",),
        rtol=2e-3,
    )


def test_ratio_is_exactly_one_at_equal_policies():
    log_probs = jnp.array([-17.3, 0.1, 5.0])
    advantages = jnp.array([1.5, -0.3, -2.0])
    loss, aux = clipped_surrogate(log_probs, log_probs, advantages)
    np.testing.assert_array_equal(aux.ratio, 1.0)
    np.testing.assert_array_equal(aux.approximate_kl, 0.0)
    np.testing.assert_array_equal(loss, -advantages)
    gradient = _gradient(lambda x: clipped_surrogate(x, log_probs, advantages), log_probs)
    np.testing.assert_array_equal(gradient, -advantages)


def test_gradient_on_a_boundary_is_whole():
    # Zero width puts ratio 1 exactly on both boundaries. Splitting the gradient between the equal
    # branches of a minimum would give fractions of A here.
    def loss(x):
        return clipped_surrogate(x, jnp.zeros(2), advantages, clip_low=0.0, clip_high=0.0)

    advantages = jnp.array([2.0, -2.0])
    np.testing.assert_array_equal(_gradient(loss, jnp.zeros(2)), [-2.0, 2.0])


def test_no_dual_clip():
    loss, aux = clipped_surrogate(
        jnp.log(jnp.array([50.0])), jnp.zeros(1), jnp.array([-1.0]), dual_clip=None
    )
    np.testing.assert_allclose(loss, 50.0, rtol=1e-5)
    assert np.all(np.asarray(aux.dual_clipped) == 0.0)


def test_log_ratio_is_bounded():
    log_probs = jnp.array([500.0, -500.0])
    loss, aux = clipped_surrogate(log_probs, jnp.zeros(2), jnp.array([-1.0, 1.0]), dual_clip=None)
    np.testing.assert_allclose(aux.ratio, np.exp([20.0, -20.0]), rtol=1e-5)
    assert np.all(np.isfinite(loss)) and np.all(np.isfinite(aux.approximate_kl))


def test_only_log_probs_are_differentiated():
    gradients = jax.grad(lambda *args: _surrogate(*args)[0].sum(), argnums=(0, 1, 2))(
        OLD + 0.1, OLD, ADVANTAGE
    )
    assert np.any(gradients[0] != 0.0)
    np.testing.assert_array_equal(gradients[1], 0.0)
    np.testing.assert_array_equal(gradients[2], 0.0)


def test_approximate_kl_is_unbiased():
    # KL(old || new) of two coins, .5 and .8: .5·ln(.5/.8) + .5·ln(.5/.2) = .223144
    old, new = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.8, 0.2]))
    _, aux = clipped_surrogate(new, old, jnp.ones(2))
    np.testing.assert_allclose(aux.approximate_kl @ jnp.exp(old), 0.223144, atol=1e-6)


def test_padding_holds_anything():
    mask = jnp.arange(len(CASES)) % 3 != 1
    log_probs = OLD + jnp.log(RATIO)

    def poison(x, value):
        return jnp.where(mask, x, value)

    bad = (
        poison(log_probs, jnp.nan),
        poison(OLD, jnp.inf),
        poison(ADVANTAGE, jnp.nan),
    )
    loss, aux = _surrogate(*bad, mask)
    np.testing.assert_allclose(loss, jnp.where(mask, LOSS, 0.0), atol=1e-5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(aux))
    gradient = _gradient(lambda x: _surrogate(x, *bad[1:], mask), bad[0])
    np.testing.assert_allclose(gradient, jnp.where(mask, GRADIENT, 0.0), atol=1e-5)
    # The test has teeth: without the mask the poison arrives.
    assert np.any(np.isnan(_surrogate(*bad)[0]))


def test_a_nan_that_is_not_masked_is_not_hidden():
    loss, _ = clipped_surrogate(jnp.array([jnp.nan]), jnp.zeros(1), jnp.array([-1.0]))
    assert np.all(np.isnan(loss))


def test_low_precision_input_is_computed_in_float32():
    loss, aux = clipped_surrogate(*(jnp.ones(2, jnp.bfloat16),) * 3)
    assert loss.dtype == aux.ratio.dtype == jnp.float32


def test_errors():
    with pytest.raises(ValueError, match="shape"):
        clipped_surrogate(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match="shape"):
        clipped_surrogate(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3), jnp.ones(1, bool))
    with pytest.raises(ValueError, match="dual_clip"):
        clipped_surrogate(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3), dual_clip=1.0)


def test_importance_weight_of_an_allocation():
    # Ratios 2, 3 and 1/4 of units that exist: 1.5. Each bounded by itself changes nothing here; the
    # bound is on their sum: e^±20.
    ratios = jnp.array([[[2.0, 3.0, 0.25, jnp.nan]], [[1.0, 1.0, 1.0, 1.0]]])
    mask = jnp.array([[[True, True, True, False]], [[True, True, True, True]]])
    old = jnp.full((2, 1, 4), -1.3)
    weight = importance_weight(old + jnp.log(ratios), old, mask)
    np.testing.assert_allclose(weight, [[1.5], [1.0]], rtol=1e-6)
    far = importance_weight(jnp.array([[15.0, 15.0], [-15.0, -15.0]]), jnp.zeros((2, 2)))
    np.testing.assert_allclose(far, np.exp([20.0, -20.0]), rtol=1e-5)
    none = importance_weight(jnp.full(3, jnp.nan), jnp.zeros(3), jnp.zeros(3, bool))
    np.testing.assert_array_equal(none, 1.0)
    gradient = jax.grad(lambda x: importance_weight(x, jnp.zeros(3)))(jnp.ones(3))
    np.testing.assert_array_equal(gradient, 0.0)
    with pytest.raises(ValueError, match="shape"):
        importance_weight(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.ones(3, bool))
