"""Group normalisation, and which groups are worth normalising."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from resadapt_jax.advantages import GroupNorm, informative, normalise

ALL = (-2, -1)
UNBIASED = GroupNorm(unbiased=True)


@partial(jax.jit, static_argnames="norm")
def _normalise(rewards, mask=None, norm=UNBIASED):
    return normalise(rewards, mask, axis=ALL, norm=norm)


@pytest.mark.parametrize("unbiased", [False, True])
def test_normalise_equals_scipy(unbiased):
    values = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    norm = GroupNorm(unbiased=unbiased, epsilon=0.0)
    for axis, flat in ((-1, values), ((-2, -1), values.reshape(3, 20))):
        expected = scipy.stats.zscore(flat, axis=-1, ddof=int(unbiased)).reshape(values.shape)
        result = jax.jit(normalise, static_argnames=("axis", "norm"))(values, axis=axis, norm=norm)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_epsilon_is_added_to_the_standard_deviation():
    # deviations ±.5, std .5: .5 / (.5 + .5) = .5; inside the root it would be .5/√.75 = .577
    result = normalise(jnp.array([1.0, 0.0]), axis=-1, norm=GroupNorm(epsilon=0.5))
    np.testing.assert_allclose(result, [0.5, -0.5], atol=1e-6)


def test_equal_rewards_give_exact_zeros_despite_rounding():
    rewards = jnp.full((1, 11, 1), 0.7)
    assert np.all(_normalise(rewards) == 0.0)
    # Without the threshold the rounding of the mean would survive.
    noise = _normalise(rewards, norm=GroupNorm(epsilon=0.0, min_std=0.0))
    assert np.any(np.abs(noise) > 0.1)


def test_threshold_is_on_the_standard_deviation():
    values = jnp.array([0.0, 1e-3])  # std 5e-4
    assert np.all(normalise(values, axis=-1, norm=GroupNorm(min_std=6e-4)) == 0.0)
    assert np.all(normalise(values, axis=-1, norm=GroupNorm(min_std=4e-4)) != 0.0)


@pytest.mark.parametrize("norm", [GroupNorm(), GroupNorm(unbiased=True)])
def test_group_of_one_is_zero(norm):
    assert np.all(normalise(jnp.array([[3.0]]), axis=-1, norm=norm) == 0.0)
    masked = normalise(jnp.array([3.0, jnp.nan]), jnp.array([True, False]), axis=-1, norm=norm)
    assert np.all(masked == 0.0)


def test_masked_answers_do_not_count_whatever_they_hold():
    rewards = jnp.array([[[1.0, 0.0], [0.0, jnp.nan], [jnp.inf, jnp.nan]]])
    mask = jnp.array([[[True, True], [True, False], [False, False]]])
    # Three answers 1, 0, 0: mean 1/3, unbiased std √((4/9 + 2/9)/2) = .57735.
    expected = [[[1.154701, -0.577350], [-0.577350, 0.0], [0.0, 0.0]]]
    np.testing.assert_allclose(_normalise(rewards, mask), expected, atol=1e-5)


def test_wholly_masked_prompt_is_zero():
    rewards = jnp.full((2, 3, 1), jnp.nan).at[0].set(jnp.array([[1.0], [0.0], [1.0]]))
    mask = jnp.array([True, False])[:, None, None] & jnp.ones((2, 3, 1), bool)
    advantages = _normalise(rewards, mask)
    assert np.all(np.isfinite(advantages)) and np.all(advantages[1] == 0.0)
    assert np.any(advantages[0] != 0.0)


def test_permuting_the_group_permutes_the_advantages():
    rewards = np.random.default_rng(1).uniform(size=(2, 6, 1))
    order = np.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(
        _normalise(rewards[:, order]), _normalise(rewards)[:, order], atol=1e-6
    )


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_any_leading_shape_is_prompt_by_prompt(lead):
    rewards = np.random.default_rng(2).uniform(size=(*lead, 4, 2))
    advantages = _normalise(rewards).reshape(-1, 4, 2)
    for row, group in zip(advantages, rewards.reshape(-1, 4, 2), strict=True):
        np.testing.assert_allclose(row, _normalise(group), atol=1e-6)


def test_jit_and_low_precision_input():
    rewards = jnp.array([[[1.0], [0.0], [0.5]]], jnp.bfloat16)
    advantages = _normalise(rewards)
    assert advantages.dtype == jnp.float32
    np.testing.assert_allclose(normalise(rewards, axis=ALL, norm=UNBIASED), advantages, atol=1e-6)


def test_centring_alone_ignores_the_spread():
    norm = GroupNorm(divide_by_std=False, epsilon=0.5)
    # mean 2: -1, 0, 1; ten times the values, ten times the advantages. Ties are still exact zeros.
    for factor in (1.0, 10.0):
        values = factor * jnp.array([[1.0], [2.0], [3.0]])
        expected = factor * np.array([[-1.0], [0.0], [1.0]])
        np.testing.assert_allclose(_normalise(values, norm=norm), expected, atol=1e-6)
    assert np.all(_normalise(jnp.full((11, 1), 0.7), norm=norm) == 0.0)


def test_informative_prompts_are_those_whose_rewards_differ():
    rewards = jnp.array(
        [
            [[1.0, 1.0], [1.0, 1.0]],  # all right
            [[0.0, 0.0], [0.0, 0.0]],  # all wrong
            [[1.0, 1.0], [1.0, 0.0]],
            [[1.0, jnp.nan], [1.0, 0.0]],  # one masked, and the others differ
            [[1.0, 0.0], [1.0, jnp.nan]],  # only masked ones differ
            [[1.0, jnp.nan], [jnp.nan, jnp.nan]],  # one answer
            [[jnp.nan] * 2] * 2,  # none
        ]
    )
    mask = ~jnp.isnan(rewards)
    mask = mask.at[4, 0, 1].set(False)
    expected = [False, False, True, True, False, False, False]
    np.testing.assert_array_equal(informative(rewards, mask), expected)
    np.testing.assert_array_equal(jax.jit(informative)(rewards, mask), expected)
    # Exactly the groups whose advantages are not all zero.
    kept = np.any(np.asarray(_normalise(rewards, mask, GroupNorm())) != 0.0, axis=(1, 2))
    np.testing.assert_array_equal(kept, expected)


def test_informative_is_not_fooled_by_rounding():
    rewards = jnp.full((1, 11, 1), 0.7)
    assert not informative(rewards)[0]
    assert informative(rewards, min_std=0.0)[0]
