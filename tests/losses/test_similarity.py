"""Temporal similarity: the worked example, gradients, padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from resadapt_jax.losses import (
    SimilarityConfig,
    masked_sum,
    temporal_similarity,
)

SCALES = jnp.array([0.5, 1.0, 1.0, 0.4])
# Features in the plane whose neighbours have cosines .9, .2, .7, of different lengths.
ANGLES = np.cumsum([0.0, *np.arccos([0.9, 0.2, 0.7])])
FEATURES = jnp.array(np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1) * [[1.0], [3.0], [0.2], [7.0]])
PAPER = SimilarityConfig(form="paper", margin=0.5)
RELEASED = SimilarityConfig(form="released", margin=0.05)
BOTH = pytest.mark.parametrize("config", [PAPER, RELEASED], ids=["paper", "released"])


COMPILED = jax.jit(temporal_similarity, static_argnames="config")


def _pairs(scales, features=FEATURES, mask=None, config=PAPER):
    return COMPILED(scales, features, mask, config)[0]


# w = σ((cos - .6)/.15): σ(2) = .880797, σ(-2.6667) = .064969, σ(.6667) = .660756.
def test_gate():
    _, aux = temporal_similarity(SCALES, FEATURES, None, PAPER)
    np.testing.assert_allclose(aux.cosine, [0.9, 0.2, 0.7], atol=1e-6)
    np.testing.assert_allclose(aux.gate, [0.880797, 0.064969, 0.660756], atol=1e-5)


# log s = -.693147, 0, 0, -.916291.
# paper: hinges max(0, -.693147 + η), max(0, η), max(0, -.916291 + η); with η = .5 only the middle
#   one, .064969·.5/3 = .0108282; with η = 0 none.
# released: log s_t+1 - log s_t = .693147, 0, -.916291; hinges .693147 + .05·.880797 = .737187,
#   .05·.064969 = .003248 and 0; (.880797·.737187 + .064969·.003248)/3 = .2165077. (Gating the
#   margin not at all would give .2197.)
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PAPER, 0.0108282),
        (SimilarityConfig(form="paper", margin=0.0), 0.0),
        (RELEASED, 0.2165077),
    ],
)
def test_worked_example(config, expected):
    pairs, aux = temporal_similarity(SCALES, FEATURES, None, config)
    np.testing.assert_allclose(masked_sum(pairs, aux.mask).mean(), expected, atol=1e-6)
    batched, _ = COMPILED(jnp.stack([SCALES] * 2), jnp.stack([FEATURES] * 2), config=config)
    np.testing.assert_allclose(batched, jnp.stack([pairs] * 2), atol=1e-6)


def test_paper_is_free_once_the_product_is_small():
    # similar neighbours; s·s' = .6 < e^-.5 = .6065 is free, .62 is not
    features = jnp.ones((2, 3))
    assert _pairs(jnp.array([0.6, 1.0]), features)[0] == 0.0
    assert _pairs(jnp.array([0.62, 1.0]), features)[0] > 0.0


def test_released_asks_for_descent():
    features = jnp.ones((2, 3))
    gate = 1 / (1 + np.exp(-0.4 / 0.15))
    equal, falling = jnp.array([0.3, 0.3]), jnp.array([1.7, 1.5])
    # Equal scales cost margin·w², however small; a descent costs nothing, however large.
    np.testing.assert_allclose(
        _pairs(equal, features, config=RELEASED), [0.05 * gate**2], rtol=1e-4
    )
    np.testing.assert_array_equal(_pairs(falling, features, config=RELEASED), [0.0])


@BOTH
def test_gradient_by_finite_differences(config):
    scales = jnp.array([0.9, 1.1, 1.3, 1.2])
    check_grads(
        lambda s, f: _pairs(s, f, config=config).sum(),
        (scales, FEATURES),
        order=1,
        modes=("rev",),
        rtol=5e-3,
        atol=5e-3,
    )


@BOTH
def test_gradient_through_features_is_a_choice(config):
    frozen = dataclasses.replace(config, feature_gradient=False)
    scales = jnp.array([0.9, 1.1, 1.3, 1.2])

    def gradients(config):
        return jax.grad(lambda s, f: _pairs(s, f, config=config).sum(), argnums=(0, 1))(
            scales, FEATURES
        )

    assert np.any(gradients(config)[1] != 0.0)
    np.testing.assert_array_equal(gradients(frozen)[1], 0.0)
    np.testing.assert_allclose(gradients(frozen)[0], gradients(config)[0], atol=1e-6)


@BOTH
def test_padding_holds_anything(config):
    mask = jnp.array([True] * 4 + [False] * 2)
    scales = jnp.full(6, jnp.nan).at[:4].set(SCALES)
    features = jnp.full((6, 2), jnp.nan).at[:4].set(FEATURES)
    pairs, aux = temporal_similarity(scales, features, mask, config)
    np.testing.assert_allclose(pairs, [*_pairs(SCALES, config=config), 0.0, 0.0], atol=1e-6)
    np.testing.assert_array_equal(aux.mask, [True, True, True, False, False])

    def loss(*args):
        return _pairs(*args, mask, config).sum()

    for poisoned, clean in zip(
        jax.grad(loss, argnums=(0, 1))(scales, features),
        jax.grad(lambda *args: _pairs(*args, config=config).sum(), argnums=(0, 1))(
            SCALES, FEATURES
        ),
        strict=True,
    ):
        np.testing.assert_allclose(poisoned[:4], clean, atol=1e-6)
        np.testing.assert_array_equal(poisoned[4:], 0.0)


@BOTH
def test_a_gap_breaks_the_chain(config):
    mask = jnp.array([True, False, True, True])
    pairs, aux = temporal_similarity(SCALES, FEATURES, mask, config)
    np.testing.assert_array_equal(aux.mask, [False, False, True])
    np.testing.assert_allclose(pairs, [0.0, 0.0, _pairs(SCALES, config=config)[2]], atol=1e-6)


@BOTH
def test_single_unit_has_no_neighbours(config):
    pairs, aux = temporal_similarity(SCALES[:1], FEATURES[:1], None, config)
    assert pairs.shape == aux.mask.shape == (0,)
    assert masked_sum(pairs, aux.mask).mean() == 0.0


@BOTH
def test_zero_features_have_finite_gradients(config):
    gradient = jax.grad(lambda f: _pairs(SCALES, f, config=config).sum())(FEATURES * 0.0)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("fields", [{"form": "code"}, {"temperature": 0.0}])
def test_impossible_configs_are_errors(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        SimilarityConfig(**fields)


@BOTH
def test_units_of_other_segments_are_no_neighbours(config):
    """An image between the first unit and the last two, a segment by itself."""
    whole, _ = COMPILED(SCALES, FEATURES, None, config)
    pairs, aux = COMPILED(SCALES, FEATURES, None, config, jnp.array([0, 1, 2, 2]))
    assert aux.mask.tolist() == [False, False, True]
    np.testing.assert_array_equal(pairs, jnp.where(aux.mask, whole, 0.0))
    same, _ = COMPILED(SCALES, FEATURES, None, config, jnp.zeros(4, jnp.int32))
    np.testing.assert_array_equal(same, whole)
