"""Measures of scales and ratios against values by hand; padding never counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.training.measures import (
    gini,
    mean_of_rows,
    mean_where,
    ratio_extremes,
    scale_span,
    scale_std,
)

# Two clips of three and one units; what is not there is poison.
SCALES = jnp.array([[0.5, jnp.nan, 2.0, 0.5], [jnp.inf, 1.5, jnp.nan, jnp.nan]])
MASK = jnp.array([[True, False, True, True], [False, True, False, False]])


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        # Pairs differ by 1.5 four times (each order): 6 / (2 * 9 * 1).
        (gini, 1 / 3),
        (scale_span, 1.5),
        # Mean 1: (0.25 + 1 + 0.25) / 3.
        (scale_std, np.sqrt(0.5)),
    ],
)
def test_within_a_clip(measure, expected):
    for function in (measure, jax.jit(measure)):
        np.testing.assert_allclose(function(SCALES, MASK), [expected, 0.0], rtol=1e-6)
    assert measure(SCALES, jnp.zeros_like(MASK)).tolist() == [0.0, 0.0]


def test_gini_is_its_definition():
    scales = np.random.default_rng(0).uniform(0.2, 1.8, (3, 7)).astype(np.float32)
    expected = [
        np.abs(row[:, None] - row[None, :]).sum() / (2 * 7**2 * row.mean()) for row in scales
    ]
    np.testing.assert_allclose(gini(jnp.asarray(scales), jnp.ones((3, 7), bool)), expected, 1e-5)


def test_a_mean_of_what_counts_and_none_of_nothing():
    values = jnp.array([[1.0, 3.0], [jnp.nan, jnp.inf]])
    assert mean_of_rows(values, jnp.array([True, False])) == 2.0
    assert mean_where(values, jnp.array([[False, True], [False, False]])) == 3.0
    assert np.isnan(mean_of_rows(values, jnp.zeros(2, bool)))


def test_ratio_extremes():
    new, old = jnp.array([0.0, 5.0, -1.0]), jnp.array([-1.0, jnp.nan, 0.0])
    mask = jnp.array([True, False, True])
    np.testing.assert_allclose(ratio_extremes(new, old, mask), [np.exp(-1), np.exp(1)], 1e-6)
    # A ratio of 1 that nobody has must not be among them.
    np.testing.assert_allclose(ratio_extremes(new, old, mask.at[2].set(False)), [np.e, np.e], 1e-6)
    assert ratio_extremes(new, old, jnp.zeros(3, bool)) == (1.0, 1.0)
