"""Grids, tokens and retention, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.operators import (
    NativeSizes,
    SizeLimits,
    cache_retention,
    grids,
    layer_retention,
    retention,
    sizes_from_scales,
    token_counts,
)

QWEN = SizeLimits()
MASK = jnp.array([[True, True, False], [True, False, False]])
HEIGHTS = jnp.array([[84, 420, 999], [224, -7, 0]], jnp.int32)
WIDTHS = jnp.array([[112, 560, 999], [280, 3, 0]], jnp.int32)


def test_grids_are_in_patches_and_absent_units_are_empty():
    # 84 = 6·14, 112 = 8·14; 420 = 30·14, 560 = 40·14; 224 = 16·14, 280 = 20·14.
    expected = [[[1, 6, 8], [1, 30, 40], [0, 0, 0]], [[1, 16, 20], [0, 0, 0], [0, 0, 0]]]
    np.testing.assert_array_equal(grids(HEIGHTS, WIDTHS, MASK, QWEN), expected)


def test_token_counts():
    # A merged token is 28 pixels square: 3·4 = 12, 15·20 = 300, 8·10 = 80.
    expected = [[12, 300, 0], [80, 0, 0]]
    np.testing.assert_array_equal(token_counts(HEIGHTS, WIDTHS, MASK, QWEN), expected)


def test_native_tokens_is_the_count_at_scale_one():
    assert int(NativeSizes.alike(420, 560, QWEN).tokens) == 15 * 20
    # 858 tokens would exceed the cap: the native count is after the cap.
    assert int(NativeSizes.alike(616, 1092, QWEN).tokens) == 720
    heights, widths = sizes_from_scales(jnp.ones(1), NativeSizes.alike(616, 1092, QWEN))
    assert int(token_counts(heights, widths, jnp.ones(1, bool), QWEN)[0]) == 720


def test_retention_divides_by_the_same_clip():
    tokens = token_counts(HEIGHTS, WIDTHS, MASK, QWEN)
    # (12 + 300) / (2·300) and 80 / 300.
    np.testing.assert_allclose(retention(tokens, MASK, 300), [0.52, 80 / 300], rtol=1e-6)
    # Units of different native sizes: 312 of 300 + 100 and 80 of 160; an absent unit's is nothing.
    got = retention(tokens, MASK, jnp.array([[300, 100, 7], [160, 9, 9]]))
    np.testing.assert_allclose(got, [0.78, 0.5], rtol=1e-6)
    assert float(retention(tokens[0], jnp.zeros(3, bool), 300)) == 0.0


def test_retention_at_scale_one_is_one_and_padding_changes_nothing():
    native = NativeSizes.alike(333, 517, QWEN)
    heights, widths = sizes_from_scales(jnp.ones(3), native)
    mask = jnp.array([True, True, False])
    tokens = token_counts(heights, widths, mask, QWEN)
    poisoned = tokens.at[2].set(10**6)
    assert float(retention(tokens, mask, native.tokens)) == 1.0
    assert float(retention(poisoned, mask, native.tokens)) == 1.0


@pytest.mark.parametrize("function", [token_counts, grids])
def test_jit_equals_eager(function):
    eager = function(HEIGHTS, WIDTHS, MASK, QWEN)
    jitted = jax.jit(function, static_argnums=3)(HEIGHTS, WIDTHS, MASK, QWEN)
    np.testing.assert_array_equal(eager, jitted)


def test_the_three_ways_to_count():
    """FastV-like: 80 of 100 native tokens enter four layers, and half of them leave after two."""
    layers = jnp.array([80, 80, 40, 40])
    assert retention(jnp.array([50, 30]), jnp.ones(2, bool), 50) == pytest.approx(0.8)
    assert layer_retention(layers, 100) == pytest.approx(0.6)
    # The prefill computes what each layer sees, and the cache keeps 40 of it in all four.
    assert cache_retention(jnp.full(4, 40), layers) == pytest.approx(160 / 240)
    both = cache_retention(jnp.full((2, 4), 40), jnp.stack([layers, jnp.zeros_like(layers)]))
    assert both[0] == pytest.approx(160 / 240) and jnp.isfinite(both[1])
