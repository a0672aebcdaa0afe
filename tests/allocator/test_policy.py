"""The policies against scipy, hand-computed values and their own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.test_util import check_grads
from scipy import integrate, special, stats

from resadapt_jax.allocator import Beta, LogisticNormal, ScaleRange, policy
from resadapt_jax.allocator.policy import ACTION_EPS

PARAMETERS = np.float32([1e-2, 3e-2, 0.1, 0.3, 1, 2, 5, 20, 100, 1000])
MUS, SIGMAS = np.float32([-13, -4, -0.7, 0, 0.3, 2, 11]), np.float32([0.1, 0.3, 0.7, 2, 5])
ACTIONS = np.float32([1e-6, 1e-4, 0.01, 0.1, 0.3, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-6])
EDGES = np.float32([0.0, ACTION_EPS, 1 - ACTION_EPS, 1.0])
BOTH = pytest.mark.parametrize("family", [Beta, LogisticNormal])
draw = jax.jit(lambda key, drawn_from, count: drawn_from.sample(key, count), static_argnums=2)
log_prob = jax.jit(lambda scored_by, actions: scored_by.log_prob(actions))
# As users compile it; unoptimised, one of a hundred of the Beta's misses by 8e-5.
quantile = jax.jit(
    lambda of, probability: of.quantile(probability),
    compiler_options={"xla_backend_optimization_level": 3},
)


def grid(family):
    """Its two parameters over all pairs [J], for jax in float32 and for scipy in float64."""
    axes = (PARAMETERS, PARAMETERS) if family is Beta else (MUS, SIGMAS)
    first, second = (x.ravel() for x in np.meshgrid(*axes))
    return first, second, first.astype(np.float64), second.astype(np.float64)


def varied(family, shape=(4, 12)):
    """A policy whose units all differ, of moderate parameters; few shapes, as sampling a Beta
    takes seconds to compile."""
    key = jax.random.key(7)
    first, second = (jax.random.normal(jax.random.fold_in(key, i), shape) for i in range(2))
    return family(jnp.exp(first) if family is Beta else first, jnp.exp(0.5 * second))


def density(family, action, first, second):
    """`log_prob` of one action, as a function of its parameters."""
    unit = (jnp.reshape(x, (1,)) for x in (first, second))
    return family(*unit).log_prob(jnp.reshape(action, (1, 1)))[0, 0]


@pytest.mark.parametrize(
    "of, action, expected",
    [
        # ln 12 + ln .3 + 2 ln .7 = 2.484907 − 1.203973 − 0.713350; B(2, 3) = 1/12
        ((Beta, 2.0, 3.0), 0.3, 0.567584),
        # 11/9 ln .9 + 16/9 ln .1 − ln B(20/9, 25/9) = −0.128774 − 4.093485 + 2.570740
        ((Beta, 20 / 9, 25 / 9), 0.9, -1.651519),
        ((Beta, 1.0, 1.0), 0.25, 0.0),  # uniform
        # u = 0: −½ ln 2π − ln .5 − ln .5 = −0.918939 + 1.386294
        ((LogisticNormal, 0.0, 1.0), 0.5, 0.467356),
        # u = ln 4, z = (1.386294 − 1)/.5 = .772589: −.298447 + .693147 − .918939 − ln .8 − ln .2
        ((LogisticNormal, 1.0, 0.5), 0.8, 1.308343),
    ],
)
def test_log_prob_worked_values(of, action, expected):
    family, *parameters = of
    np.testing.assert_allclose(density(family, action, *parameters), expected, atol=2e-6)


def test_the_beta_matches_scipy_over_the_grid():
    alpha, beta, alpha64, beta64 = grid(Beta)
    got = Beta(alpha, beta).log_prob(ACTIONS[:, None])
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


def test_the_logistic_normal_matches_scipy_over_the_grid():
    mu, sigma, mu64, sigma64 = grid(LogisticNormal)
    got = LogisticNormal(mu, sigma).log_prob(ACTIONS[:, None])
    a64 = ACTIONS.astype(np.float64)[:, None]
    # The density of logit a, and its derivative 1 / (a (1 − a)).
    normal = stats.norm.logpdf(special.logit(a64), mu64[None, :], sigma64[None, :])
    expected = normal - np.log(a64) - np.log1p(-a64)
    # An error δ of the logit, of size 14 at most, is one of z δ / σ.
    steep = np.abs(special.logit(a64) - mu64) / sigma64**2
    assert np.all(np.abs(got - expected) <= 4e-6 * steep + 4e-7 * np.abs(normal) + 4e-6)
    assert got.dtype == jnp.float32


def test_the_betas_gradients_match_digamma_up_to_the_edge():
    alpha, beta, alpha64, beta64 = grid(Beta)
    by_parameter = jax.vmap(jax.grad(density, argnums=(2, 3)), (None, None, 0, 0))
    over_grid = jax.vmap(by_parameter, (None, 0, None, None))
    grads = jax.jit(over_grid, static_argnums=0)(Beta, ACTIONS, alpha, beta)
    # ∂/∂α = ln a − ψ(α) + ψ(α+β), ∂/∂β = ln(1−a) − ψ(β) + ψ(α+β)
    a64 = ACTIONS.astype(np.float64)[:, None]
    both = special.digamma(alpha64 + beta64)
    np.testing.assert_allclose(
        grads[0], np.log(a64) - special.digamma(alpha64) + both, rtol=2e-6, atol=5e-6
    )
    np.testing.assert_allclose(
        grads[1], np.log1p(-a64) - special.digamma(beta64) + both, rtol=2e-6, atol=5e-6
    )


@BOTH
def test_gradients_are_those_of_finite_differences(family):
    scored_by = varied(family, (2, 3))
    actions = jnp.linspace(0.1, 0.9, 2 * 4 * 3).reshape(2, 4, 3)

    def summaries(scored_by, actions):
        parts = (scored_by.mean(), scored_by.concentration(), scored_by.entropy())
        return scored_by.log_prob(actions).sum(), *(part.sum() for part in parts)

    check_grads(jax.jit(summaries), (scored_by, actions), order=1, modes=["rev"], rtol=2e-2)


@BOTH
def test_everything_is_finite_on_the_closed_interval(family):
    first, second, *_ = grid(family)
    value_and_grad = jax.value_and_grad(density, argnums=(1, 2, 3))
    by_parameter = jax.vmap(value_and_grad, (None, None, 0, 0))
    over_grid = jax.jit(jax.vmap(by_parameter, (None, 0, None, None)), static_argnums=0)
    for leaf in jax.tree.leaves(over_grid(family, EDGES, first, second)):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(
        density(family, 0.0, 0.5, 0.5), density(family, ACTION_EPS, 0.5, 0.5)
    )
    # The same statement about jax's own density, which is why actions are held inside.
    own = jax.grad(jax.scipy.stats.beta.logpdf, argnums=1)(0.0, 0.5, 0.5)
    assert not np.isfinite(own)


def test_the_betas_summaries_match_scipy():
    alpha, beta, alpha64, beta64 = grid(Beta)
    reference, got = stats.beta(alpha64, beta64), Beta(alpha, beta)
    np.testing.assert_allclose(got.mean(), reference.mean(), rtol=3e-7)
    np.testing.assert_allclose(got.variance(), reference.var(), rtol=2e-6)
    np.testing.assert_allclose(got.concentration(), alpha64 + beta64, rtol=1e-7)
    # Terms as large as (α + β) ψ(α + β) cancel: the error is float32's on their size.
    size = (alpha64 + beta64) * np.abs(special.digamma(alpha64 + beta64))
    error = np.abs(got.entropy() - reference.entropy())
    assert np.all(error <= 1e-7 * size + 2e-5)


def test_the_logistic_normals_summaries_match_integrals():
    mu, sigma, mu64, sigma64 = grid(LogisticNormal)
    got = LogisticNormal(mu, sigma)
    z = np.linspace(-12.0, 12.0, 20_001)
    u = mu64[:, None] + sigma64[:, None] * z[None, :]

    def expect(values):
        return integrate.trapezoid(values * stats.norm.pdf(z), z, axis=1)

    mean = expect(special.expit(u))
    variance = expect((special.expit(u) - mean[:, None]) ** 2)
    log_slope = expect(special.log_expit(u) + special.log_expit(-u))
    entropy = stats.norm(mu64, sigma64).entropy() + log_slope
    np.testing.assert_allclose(got.variance(), variance, rtol=1e-3, atol=1e-8)
    np.testing.assert_allclose(got.entropy(), entropy, atol=1e-4)
    np.testing.assert_allclose(got.concentration(), 1 / sigma64, rtol=1e-6)
    # The probit approximation, which is the released code's, and how far it is from E[a].
    probit = special.expit(mu64 / np.sqrt(1 + np.pi / 8 * sigma64**2))
    np.testing.assert_allclose(got.mean(), probit, rtol=1e-5)
    np.testing.assert_allclose(got.mean(), mean, atol=0.02)


def test_summaries_worked_values():
    # Uniform: 0. Beta(2, 1): density 2a, −∫ 2a ln 2a da = 1/2 − ln 2.
    got = Beta(jnp.float32([1.0, 2.0]), jnp.float32([1.0, 1.0]))
    np.testing.assert_allclose(got.entropy(), [0.0, 0.5 - np.log(2.0)], atol=2e-6)
    # √(1 + π·8/8) = 2.035090: sigmoid(2 / 2.035090) = .727655
    got = LogisticNormal(jnp.float32([2.0]), jnp.float32([np.sqrt(8.0)]))
    np.testing.assert_allclose(got.mean(), [0.727655], atol=2e-6)
    np.testing.assert_allclose(got.concentration(), [0.353553], atol=2e-6)


@pytest.mark.parametrize("probability", [0.01, 0.25, 0.5, 0.9, 0.99])
def test_quantiles_match_scipy(probability):
    alpha, beta, alpha64, beta64 = grid(Beta)
    expected = stats.beta.ppf(probability, alpha64, beta64)
    expected = np.clip(expected, ACTION_EPS, 1 - ACTION_EPS)
    np.testing.assert_allclose(quantile(Beta(alpha, beta), probability), expected, atol=5e-5)
    mu, sigma, mu64, sigma64 = grid(LogisticNormal)
    expected = special.expit(stats.norm.ppf(probability, mu64, sigma64))
    expected = np.clip(expected, ACTION_EPS, 1 - ACTION_EPS)
    got = quantile(LogisticNormal(mu, sigma), probability)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_quantile_worked_values():
    # Beta(2, 1): P(A ≤ a) = a², so the quantile is √p; the mean, 2/3, is not the median.
    got = Beta(jnp.float32([2.0]), jnp.float32([1.0])).quantile(jnp.float32([0.25, 0.5]))
    np.testing.assert_allclose(got, [0.5, np.sqrt(0.5)], atol=1e-5)


@pytest.mark.parametrize(
    "drawn_from",
    [
        Beta(jnp.float32([[0.2, 1, 2], [5, 0.5, 20]]), jnp.float32([[0.3, 1, 7], [0.5, 5, 20]])),
        LogisticNormal(
            jnp.float32([[0, 1, -2], [0, 3, -1]]), jnp.float32([[0.7, 0.1, 1], [3, 0.5, 2]])
        ),
    ],
)
def test_samples_have_the_right_moments_and_distribution(drawn_from):
    count = 20_000
    draws = draw(jax.random.key(0), drawn_from, count)
    assert draws.shape == (2, count, 3) and draws.dtype == jnp.float32
    draws = np.float64(draws)
    first, second = (np.float64(x) for x in jax.tree.leaves(drawn_from))
    if isinstance(drawn_from, Beta):
        reference, seen = stats.beta(first, second), draws
    else:
        reference, seen = stats.norm(first, second), special.logit(draws)
    # Four standard errors: of the mean σ/√n, of the variance σ² √((κ + 2)/n), κ excess kurtosis.
    bound = 4 * reference.std() / np.sqrt(count)
    assert np.all(np.abs(seen.mean(axis=1) - reference.mean()) < bound)
    bound = 4 * reference.var() * np.sqrt((reference.stats("k") + 2) / count)
    assert np.all(np.abs(seen.var(axis=1) - reference.var()) < bound)
    # Below α or β of 1/2 the clipping gathers a visible share of the draws at ε or 1 − ε.
    for b, k in np.argwhere(np.minimum(first, second) >= 0.5):
        family = stats.beta if isinstance(drawn_from, Beta) else stats.norm
        cdf = family(first[b, k], second[b, k]).cdf
        assert stats.kstest(seen[b, :4000, k], cdf).pvalue > 1e-3


@pytest.mark.parametrize("drawn_from", [(Beta, 0.02, 0.02), (LogisticNormal, 0.0, 20.0)])
def test_edge_draws_are_clipped_and_scored(drawn_from):
    family, *parameters = drawn_from
    drawn_from = family(*(jnp.full((4, 12), x) for x in parameters))
    draws = draw(jax.random.key(2), drawn_from, 16)
    # P(A > 1 − ε) is about ε^.02 / 2 = 38 %, and float32 rounds many of those draws to 1; of the
    # other Φ(−13.8 / 20) = 25 %.
    assert draws.min() == np.float32(ACTION_EPS) and draws.max() == np.float32(1 - ACTION_EPS)
    assert np.isfinite(log_prob(drawn_from, draws)).all()


@BOTH
def test_samples_carry_no_gradient(family):
    def total(drawn_from):
        return drawn_from.sample(jax.random.key(0), 3).sum()

    gradients = jax.jit(jax.grad(total))(varied(family, (1, 2)))
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(leaf, 0.0)


@BOTH
def test_allocations_and_units_are_drawn_independently(family):
    ones = jnp.ones((4, 12))
    draws = draw(jax.random.key(0), family(ones, ones), 16)
    assert np.unique(draws).size == draws.size


@BOTH
def test_ratio_is_one_at_equal_parameters(family):
    scored_by = varied(family)
    actions = draw(jax.random.key(3), scored_by, 16)
    old = log_prob(scored_by, actions)
    np.testing.assert_array_equal(jnp.exp(log_prob(scored_by, actions) - old), 1.0)

    def loss(scored_by):
        ratio = jnp.exp(scored_by.log_prob(actions) - old)
        return ratio.sum(), ratio

    # The update is another program: it may round differently, by units in the last place.
    ratio = jax.jit(jax.grad(loss, has_aux=True))(scored_by)[1]
    np.testing.assert_allclose(ratio, 1.0, atol=5e-6)
    # The released code rounds the action to the network's dtype; the ratio then is off by far more.
    rounded = log_prob(scored_by, actions.astype(jnp.bfloat16))
    assert np.abs(jnp.exp(rounded - old) - 1.0).max() > 1e-3


@BOTH
def test_every_value_is_float32_whatever_the_parameters_are(family):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), varied(family))
    single = jax.tree.map(lambda x: x.astype(jnp.float32), half)

    def values(of):
        actions = of.sample(jax.random.key(0), 16)
        summaries = of.mean(), of.variance(), of.entropy(), of.concentration(), of.quantile(0.3)
        return actions, of.log_prob(actions), *summaries

    assert {x.dtype for x in jax.eval_shape(values, half)} == {jnp.dtype("float32")}
    actions = jnp.linspace(0.0, 1.0, 4 * 16 * 12).reshape(4, 16, 12)
    np.testing.assert_array_equal(log_prob(half, actions), log_prob(single, actions))


@BOTH
def test_jit_and_vmap_agree_with_eager(family):
    scored_by = varied(family)
    actions = draw(jax.random.key(4), scored_by, 16)
    eager = scored_by.log_prob(actions)
    mapped = jax.jit(jax.vmap(lambda of, a: of.log_prob(a)))(scored_by, actions)
    np.testing.assert_allclose(mapped, eager, rtol=1e-5, atol=1e-5)


@BOTH
def test_on_a_mesh_as_on_one_device(family):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    alone = varied(family)
    split = jax.device_put(alone, NamedSharding(mesh, jax.P("data")))
    actions = draw(jax.random.key(5), split, 16)
    assert len(actions.sharding.device_set) == 4 and not actions.sharding.is_fully_replicated
    np.testing.assert_array_equal(actions, draw(jax.random.key(5), alone, 16))
    scores = log_prob(split, actions)
    assert len(scores.sharding.device_set) == 4
    np.testing.assert_allclose(scores, log_prob(alone, actions), rtol=1e-6, atol=1e-6)


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
