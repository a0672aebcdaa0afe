"""Cost credited to units: hand-computed, equal to the shared cost in expectation, and masked."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.advantages import (
    DirectCostConfig,
    UnitCostConfig,
    direct_cost,
    make_advantages,
    unit_cost,
)
from tests.advantages.worked_group import ALL_RIGHT, ALL_WRONG, MIXED, SCALES, group_of


def test_each_unit_pays_for_itself():
    # Costs (s - .2)/1.6 of the first unit: 0, .25, 1, 1, mean .5625; of the second .125, .25, .625,
    # .75, mean .4375; of the third .25, .25, .25, .875, mean .40625.
    result = unit_cost(group_of(ALL_RIGHT), UnitCostConfig(gamma=0.2))
    expected = [
        [0.1125, 0.0625, 0.03125],
        [0.0625, 0.0375, 0.03125],
        [-0.0875, -0.0375, 0.03125],
        [-0.0875, -0.0625, -0.09375],
    ]
    np.testing.assert_allclose(result.per_unit, expected, atol=1e-6)
    np.testing.assert_array_equal(result.values, 0.0)  # all right: nothing between allocations
    mixed = unit_cost(group_of(MIXED), UnitCostConfig(gamma=0.2, success_power=0.0))
    base = np.array([1, -1, 1, -1]) * 0.999998
    np.testing.assert_allclose(mixed.per_unit, base[:, None] + expected, atol=1e-6)
    np.testing.assert_allclose(mixed.values, base, atol=1e-6)


def test_the_cost_counts_where_answers_are_right():
    # Half of the answers of MIXED are right, 1/2³ = .125; of ALL_WRONG none: nothing to learn.
    config = UnitCostConfig(gamma=0.2, success_power=3.0)
    whole = unit_cost(group_of(ALL_RIGHT), config).per_unit
    mixed = unit_cost(group_of(MIXED), config)
    base = np.array([1, -1, 1, -1]) * 0.999998
    np.testing.assert_allclose(mixed.per_unit, base[:, None] + 0.125 * whole, atol=1e-6)
    np.testing.assert_array_equal(unit_cost(group_of(ALL_WRONG)).per_unit, 0.0)


def test_the_gradient_is_that_of_the_shared_cost_with_less_noise():
    # A policy that shows each of 8 units whole or at the least scale, logit by logit: its score is
    # action - p, and the cost alone is paid, as all answers are right.
    probability = jnp.linspace(0.2, 0.8, 8)

    def gradient(estimate, key):
        actions = jax.random.bernoulli(key, probability[None], (16, 8)).astype(jnp.float32)
        group = group_of(jnp.ones(16), 0.2 + 0.8 * actions, jnp.ones(8, bool), s_max=1.0)
        advantages = estimate(group).per_unit
        return jnp.mean(advantages * (actions - probability[None]), axis=0)

    keys = jax.random.split(jax.random.key(0), 4000)

    def moments(estimate):
        draws = jax.vmap(partial(gradient, estimate))(keys)
        return draws.mean(axis=0), draws.std(axis=0)

    mine, noise = moments(partial(unit_cost, config=UnitCostConfig(gamma=1 / 8)))
    shared = DirectCostConfig(normalised=False, cost_weight=1.0)
    theirs, more_noise = moments(partial(direct_cost, config=shared))
    # ∂/∂logit of -γ/K·p is -p(1-p)/8; centring on the group's own mean leaves 15/16 of it.
    exact = -probability * (1 - probability) / 8
    tolerance = 4 * float(more_noise.max()) / len(keys) ** 0.5
    np.testing.assert_allclose(theirs, exact, atol=tolerance)
    np.testing.assert_allclose(mine, 15 / 16 * exact, atol=4 * float(noise.max()) / 4000**0.5)
    assert float(jnp.max(noise / more_noise)) < 0.25


def test_units_that_do_not_count_earn_nothing():
    mask = jnp.array([True, True, False])
    poisoned = SCALES.at[:, 2].set(jnp.nan)
    result = unit_cost(group_of(ALL_RIGHT, poisoned, mask), UnitCostConfig(gamma=0.2))
    expected = [0.1125, 0.0625, -0.0875, -0.0875]
    np.testing.assert_allclose(result.per_unit[:, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(result.per_unit[:, 2], 0.0)


def test_an_allocation_without_an_answer_is_no_part_of_the_mean():
    answered = jnp.array([[True], [True], [True], [False]])
    result = unit_cost(group_of(ALL_RIGHT, mask=answered), UnitCostConfig(gamma=0.2))
    # First unit: 0, .25, 1, mean .416667, times -.2.
    np.testing.assert_allclose(result.per_unit[:3, 0], [0.083333, 0.033333, -0.116667], atol=1e-6)
    np.testing.assert_array_equal(result.per_unit[3], 0.0)


def test_units_share_what_their_allocation_earned():
    group = group_of(MIXED)
    result = make_advantages(group, jnp.array([[1.0], [2.0], [3.0], [4.0]]))
    np.testing.assert_array_equal(result.per_unit, np.array([[1.0, 2, 3, 4]] * 3).T)


def test_a_negative_power_is_refused():
    with pytest.raises(ValueError, match="success_power must not be negative, got -1"):
        UnitCostConfig(success_power=-1)
