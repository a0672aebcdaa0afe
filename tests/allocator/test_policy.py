"""The Beta policy against scipy, hand-computed values and its own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from scipy import special, stats

from resadapt_jax.allocator import policy
from resadapt_jax.allocator.policy import ACTION_EPS, ScaleRange

PARAMETERS = np.float32([1e-2, 3e-2, 0.1, 0.3, 1, 2, 5, 20, 100, 1000])
ACTIONS = np.float32([1e-6, 1e-4, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-6])
EDGES = np.float32([0.0, ACTION_EPS, 1 - ACTION_EPS, 1.0])
draw = jax.jit(policy.sample, static_argnums=3)


def grid():
    """(alpha, beta) over all pairs [J], for jax in float32 and for scipy in float64."""
    alpha, beta = (x.ravel() for x in np.meshgrid(PARAMETERS, PARAMETERS))
    return alpha, beta, alpha.astype(np.float64), beta.astype(np.float64)


@pytest.mark.parametrize(
    "action, alpha, beta, expected",
    [
        # ln 12 + ln .3 + 2 ln .7 = 2.484907 − 1.203973 − 0.713350; B(2, 3) = 1/12
        (0.3, 2.0, 3.0, 0.567584),
        # 11/9 ln .9 + 16/9 ln .1 − ln B(20/9, 25/9) = −0.128774 − 4.093485 + 2.570740
        (0.9, 20 / 9, 25 / 9, -1.651519),
        (0.25, 1.0, 1.0, 0.0),  # uniform
    ],
)
def test_log_prob_worked_values(action, alpha, beta, expected):
    np.testing.assert_allclose(policy.log_prob(action, alpha, beta), expected, atol=2e-6)


def test_log_prob_matches_scipy_over_the_grid():
    alpha, beta, alpha64, beta64 = grid()
    got = policy.log_prob(ACTIONS[:, None], alpha[None, :], beta[None, :])
    a64 = ACTIONS.astype(np.float64)[:, None]
    expected = stats.beta.logpdf(a64, alpha64[None, :], beta64[None, :])
    # The terms (α−1) ln a, (β−1) ln(1−a) and ln B cancel: the error is float32's on their size.
    size = (
        np.abs((alpha64 - 1) * np.log(a64))
        + np.abs((beta64 - 1) * np.log1p(-a64))
        + np.abs(special.betaln(alpha64, beta64))
    )
    assert np.all(np.abs(got - expected) <= 4e-7 * size + 2e-6)
    assert got.dtype == jnp.float32


def test_log_prob_gradients_match_digamma_up_to_the_edge():
    alpha, beta, alpha64, beta64 = grid()
    by_parameter = jax.vmap(jax.grad(policy.log_prob, argnums=(1, 2)), (None, 0, 0))
    grads = jax.jit(jax.vmap(by_parameter, (0, None, None)))(ACTIONS, alpha, beta)
    # ∂/∂α = ln a − ψ(α) + ψ(α+β), ∂/∂β = ln(1−a) − ψ(β) + ψ(α+β)
    a64 = ACTIONS.astype(np.float64)[:, None]
    both = special.digamma(alpha64 + beta64)
    np.testing.assert_allclose(
        grads[0], np.log(a64) - special.digamma(alpha64) + both, rtol=2e-6, atol=5e-6
    )
    np.testing.assert_allclose(
        grads[1], np.log1p(-a64) - special.digamma(beta64) + both, rtol=2e-6, atol=5e-6
    )


def test_everything_is_finite_on_the_closed_interval():
    alpha, beta, *_ = grid()
    value_and_grad = jax.value_and_grad(policy.log_prob, argnums=(0, 1, 2))
    over_grid = jax.jit(jax.vmap(jax.vmap(value_and_grad, (None, 0, 0)), (0, None, None)))
    for leaf in jax.tree.leaves(over_grid(EDGES, alpha, beta)):
        assert np.isfinite(leaf).all()
    # The same statement about jax's own density, which is why actions are held inside.
    own = jax.grad(jax.scipy.stats.beta.logpdf, argnums=1)(0.0, 0.5, 0.5)
    assert not np.isfinite(own)


def test_the_edge_scores_as_the_clipped_action():
    np.testing.assert_array_equal(
        policy.log_prob(jnp.array([0.0, 1.0]), 0.5, 0.5),
        policy.log_prob(jnp.array([ACTION_EPS, 1 - ACTION_EPS]), 0.5, 0.5),
    )


def test_summaries_match_scipy():
    alpha, beta, alpha64, beta64 = grid()
    reference = stats.beta(alpha64, beta64)
    np.testing.assert_allclose(policy.mean(alpha, beta), reference.mean(), rtol=3e-7)
    np.testing.assert_allclose(policy.variance(alpha, beta), reference.var(), rtol=2e-6)
    # Terms as large as (α + β) ψ(α + β) cancel: the error is float32's on their size.
    size = (alpha64 + beta64) * np.abs(special.digamma(alpha64 + beta64))
    error = np.abs(policy.entropy(alpha, beta) - reference.entropy())
    assert np.all(error <= 1e-7 * size + 2e-5)


def test_entropy_worked_values():
    # Uniform: 0. Beta(2, 1): density 2a, −∫ 2a ln 2a da = 1/2 − ln 2.
    np.testing.assert_allclose(policy.entropy(1.0, 1.0), 0.0, atol=2e-6)
    np.testing.assert_allclose(policy.entropy(2.0, 1.0), 0.5 - np.log(2.0), atol=2e-6)


@pytest.mark.parametrize("probability", [0.01, 0.25, 0.5, 0.9, 0.99])
def test_quantile_matches_scipy(probability):
    alpha, beta, alpha64, beta64 = grid()
    # As users compile it; unoptimised, one of a hundred misses by 8e-5.
    options = {"xla_backend_optimization_level": 3}
    quantile = jax.jit(policy.quantile, compiler_options=options)
    got = quantile(jnp.float32(probability), alpha, beta)
    expected = stats.beta.ppf(probability, alpha64, beta64)
    expected = np.clip(expected, ACTION_EPS, 1 - ACTION_EPS)
    np.testing.assert_allclose(got, expected, atol=5e-5)


def test_quantile_worked_values():
    # Beta(2, 1): P(A ≤ a) = a², so the quantile is √p; the mean, 2/3, is not the median.
    got = policy.quantile(jnp.float32([0.25, 0.5]), jnp.float32([2.0]), jnp.float32([1.0]))
    np.testing.assert_allclose(got, [0.5, np.sqrt(0.5)], atol=1e-5)


def test_samples_have_the_right_moments_and_distribution():
    alpha = jnp.float32([[0.2, 1.0, 2.0], [5.0, 0.5, 20.0]])
    beta = jnp.float32([[0.3, 1.0, 7.0], [0.5, 5.0, 20.0]])
    count = 20_000
    draws = draw(jax.random.key(0), alpha, beta, count)
    assert draws.shape == (2, count, 3) and draws.dtype == jnp.float32
    reference = stats.beta(np.float64(alpha), np.float64(beta))
    # Four standard errors: of the mean σ/√n, of the variance σ² √((κ + 2)/n), κ excess kurtosis.
    draws = np.float64(draws)
    bound = 4 * reference.std() / np.sqrt(count)
    assert np.all(np.abs(draws.mean(axis=1) - reference.mean()) < bound)
    kurtosis = stats.beta.stats(np.float64(alpha), np.float64(beta), moments="k")
    bound = 4 * reference.var() * np.sqrt((kurtosis + 2) / count)
    assert np.all(np.abs(draws.var(axis=1) - reference.var()) < bound)
    # Below α or β of 1/2 the clipping gathers a visible share of the draws at ε or 1 − ε.
    for b, k in np.argwhere(np.minimum(alpha, beta) >= 0.5):
        cdf = stats.beta(float(alpha[b, k]), float(beta[b, k])).cdf
        assert stats.kstest(draws[b, :4000, k], cdf).pvalue > 1e-3


def test_edge_draws_are_clipped_and_scored():
    alpha = beta = jnp.full((4, 12), 0.02)
    draws = draw(jax.random.key(2), alpha, beta, 16)
    # P(A > 1 − ε) is about ε^.02 / 2 = 38 %, and float32 rounds many of those draws to 1.
    assert draws.min() == ACTION_EPS and draws.max() == np.float32(1 - ACTION_EPS)
    log_probs = jax.jit(policy.log_prob)(draws, alpha[:, None, :], beta[:, None, :])
    assert np.isfinite(log_probs).all()


def test_samples_carry_no_gradient():
    def total(alpha):
        return policy.sample(jax.random.key(0), alpha, jnp.full((1, 2), 2.0), 3).sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(jnp.full((1, 2), 2.0)), 0.0)


def test_allocations_and_units_are_drawn_independently():
    ones = jnp.ones((4, 12))
    draws = draw(jax.random.key(0), ones, ones, 16)
    assert np.unique(draws).size == draws.size


def test_ratio_is_one_at_equal_parameters():
    key = jax.random.key(3)
    alpha = jnp.exp(jax.random.normal(key, (4, 1, 12)))
    beta = jnp.exp(jax.random.normal(jax.random.fold_in(key, 1), (4, 1, 12)))
    actions = draw(key, alpha[:, 0], beta[:, 0], 16)
    log_prob = jax.jit(policy.log_prob)
    old = log_prob(actions, alpha, beta)
    np.testing.assert_array_equal(jnp.exp(log_prob(actions, alpha, beta) - old), 1.0)

    def loss(alpha, beta):
        ratio = jnp.exp(policy.log_prob(actions, alpha, beta) - old)
        return ratio.sum(), ratio

    # The update is another program: it may round differently, by units in the last place.
    ratio = jax.jit(jax.grad(loss, has_aux=True))(alpha, beta)[1]
    np.testing.assert_allclose(ratio, 1.0, atol=5e-6)
    # The released code rounds the action to the network's dtype; the ratio then is off by far more.
    rounded = log_prob(actions.astype(jnp.bfloat16).astype(jnp.float32), alpha, beta)
    assert np.abs(jnp.exp(rounded - old) - 1.0).max() > 1e-3


def test_jit_and_vmap_agree_with_eager():
    key = jax.random.key(4)
    alpha, beta = jnp.full((4, 12), 0.5), jnp.full((4, 12), 1.5)
    actions = draw(key, alpha, beta, 16)
    np.testing.assert_array_equal(actions, policy.sample(key, alpha, beta, 16))
    eager = policy.log_prob(actions, alpha[:, None, :], beta[:, None, :])
    mapped = jax.jit(jax.vmap(jax.vmap(policy.log_prob, (0, None, None))))(actions, alpha, beta)
    np.testing.assert_allclose(mapped, eager, rtol=1e-5, atol=1e-6)


def test_sampling_on_a_mesh_equals_one_device():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, jax.P("data"))
    alpha = jnp.linspace(0.1, 4.0, 16 * 3).reshape(16, 3)
    alone = draw(jax.random.key(5), alpha, alpha[::-1], 4)
    split = draw(
        jax.random.key(5),
        jax.device_put(alpha, sharding),
        jax.device_put(alpha[::-1], sharding),
        4,
    )
    assert len(split.sharding.device_set) == 8
    np.testing.assert_array_equal(split, alone)


def test_scale_map():
    scale_range = ScaleRange(s_min=0.2, s_max=1.8)
    # 0.2 + 0.25 · 1.6 = 0.6
    np.testing.assert_allclose(
        policy.to_scale(jnp.float32([0.0, 0.25, 1.0]), scale_range), [0.2, 0.6, 1.8], rtol=1e-6
    )
    actions = jnp.linspace(0.0, 1.0, 11)
    np.testing.assert_allclose(
        policy.from_scale(policy.to_scale(actions, scale_range), scale_range), actions, atol=1e-6
    )


@pytest.mark.parametrize("s_min, s_max", [(0.0, 1.0), (-0.2, 1.0), (1.0, 1.0), (1.8, 0.2)])
def test_a_scale_range_must_be_one(s_min, s_max):
    with pytest.raises(ValueError, match="s_min"):
        ScaleRange(s_min=s_min, s_max=s_max)
