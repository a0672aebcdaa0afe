"""The record that estimators read, and the one they return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.advantages import make_advantages, make_group, normalise, proxy_cost
from tests.advantages.worked_group import COSTS, MIXED, SCALES, UNIT_MASK, group_of

SPAN = {"s_min": 0.2, "s_max": 1.8}


def test_rewards_are_the_weighted_sum_of_their_parts():
    parts = {
        "accuracy": jnp.array([[1.0, 0.0]] * 4),
        "format": jnp.array([[1.0, -1.0]] * 4),
        "overlong": jnp.array([[-0.5, 0.0]] * 4),
    }
    group = make_group(parts, SCALES, UNIT_MASK, reward_weights={"format": 0.2}, **SPAN)
    # 1 + .2·1 - .5 = .7 and 0 - .2 + 0 = -.2; the part without a weight counts once.
    np.testing.assert_allclose(group.rewards, [[0.7, -0.2]] * 4, atol=1e-6)
    np.testing.assert_array_equal(group.accuracy, parts["accuracy"])
    np.testing.assert_allclose(group.cost, COSTS, atol=1e-6)
    assert dict(group.reward_weights) == {"accuracy": 1.0, "format": 0.2, "overlong": 1.0}


def test_success_is_strictly_above_the_threshold_unless_the_grader_says():
    accuracy = [0.35, 0.3501, 0.34, 1.0]
    np.testing.assert_array_equal(group_of(accuracy).success[:, 0], [False, True, False, True])
    strict = group_of(accuracy, success_threshold=0.5).success
    np.testing.assert_array_equal(strict[:, 0], [False, False, False, True])
    told = jnp.array([[True], [False], [True], [False]])
    np.testing.assert_array_equal(group_of(accuracy, success=told).success, told)
    mask = jnp.array([[False], [True], [True], [True]])
    masked = group_of(accuracy, success=told, mask=mask).success
    np.testing.assert_array_equal(masked[:, 0], [False, False, True, False])


def test_padding_is_zero_whatever_it_held():
    mask = jnp.array([[True, False], [True, True], [False, False]])
    unit_mask = jnp.array([True, True, False])
    poison = jnp.where(mask, 1.0, jnp.nan)
    scales = jnp.array([[0.2, 1.8, jnp.nan], [1.0, 1.0, jnp.nan], [jnp.nan] * 3])
    group = make_group(
        {"accuracy": poison, "format": -poison}, scales, unit_mask, mask=mask, **SPAN
    )
    np.testing.assert_array_equal(group.accuracy, mask.astype(jnp.float32))
    np.testing.assert_array_equal(group.reward_parts["format"], -mask.astype(jnp.float32))
    np.testing.assert_array_equal(group.rewards, 0.0)
    np.testing.assert_array_equal(group.success, mask)
    np.testing.assert_allclose(group.cost, [0.5, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(group.scales, [[0.2, 1.8, 0.0], [1.0, 1.0, 0.0], [0.0] * 3])


def test_cost_counts_valid_units_and_stays_in_range():
    scales = jnp.array([[0.2, 1.8, 9.0], [1.0, 1.0, 9.0], [0.05, 0.1, 9.0]])
    unit_mask = jnp.array([True, True, False])
    # (1 - .2)/1.6 = .5 twice; a budget may push scales below s_min, which costs nothing.
    np.testing.assert_allclose(proxy_cost(scales, unit_mask, 0.2, 1.8), [0.5, 0.5, 0.0], atol=1e-6)
    np.testing.assert_array_equal(proxy_cost(scales, jnp.zeros(3, bool), 0.2, 1.8), 0.0)


def test_what_does_not_fit_together_is_an_error():
    right, scales, units = jnp.ones((2, 4, 1)), jnp.ones((2, 4, 5)), jnp.ones((2, 5), bool)

    def make(parts=None, scales=scales, units=units, **kwargs):
        return make_group(parts or {"accuracy": right}, scales, units, **SPAN | kwargs)

    make()
    with pytest.raises(ValueError, match="scales"):
        make(scales=scales[:, :3])
    with pytest.raises(ValueError, match="unit_mask"):
        make(units=units[0])
    with pytest.raises(ValueError, match="^format .* must have accuracy's shape"):
        make({"accuracy": right, "format": right[..., 0]})
    for name in ("mask", "success"):
        with pytest.raises(ValueError, match=f"^{name} .* must have accuracy's shape"):
            make(**{name: jnp.ones((2, 4), bool)})
    with pytest.raises(ValueError, match="must have 'accuracy', got .'format'."):
        make({"format": right})
    with pytest.raises(ValueError, match=r"reward_weights names \['fromat'\]"):
        make(reward_weights={"fromat": 0.2})
    with pytest.raises(ValueError, match="s_min"):
        make(s_min=1.8, s_max=0.2)


def _thrifty(group):
    base = normalise(group.rewards, group.mask, axis=(-2, -1))
    return make_advantages(group, base - 0.1 * group.cost[..., None], base=base)


def test_a_method_of_ones_own_is_one_function():
    expected = np.array([1, -1, 1, -1]) * 0.999998 - 0.1 * np.array(COSTS)
    for method in (_thrifty, jax.jit(_thrifty)):
        result = method(group_of(MIXED))
        np.testing.assert_allclose(result.values, expected, atol=1e-6)
        np.testing.assert_allclose(result.per_answer[:, 0], expected, atol=1e-6)
        np.testing.assert_allclose(result.terms["base"], [0.999998, -0.999998] * 2, atol=1e-6)


def test_answers_are_averaged_within_their_allocation():
    mask = jnp.array([[True, True], [True, False], [False, False]])
    group = group_of(jnp.ones((3, 2)), SCALES[:3], mask=mask)
    per_answer = jnp.array([[1.0, 3.0], [5.0, jnp.nan], [jnp.nan, jnp.nan]])
    result = make_advantages(group, per_answer, shift=jnp.full((1, 1), 7.0))
    np.testing.assert_allclose(result.values, [2.0, 5.0, 0.0])
    np.testing.assert_allclose(result.per_answer, [[1.0, 3.0], [5.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(result.terms["shift"], [7.0, 7.0, 0.0])


def test_a_lone_allocation_has_nothing_to_be_compared_with():
    group = group_of(jnp.array([[1.0, 0.0], [1.0, 1.0]]), SCALES[:2])
    lone = group.replace(mask=jnp.array([[True, True], [False, False]]))
    per_answer = jnp.array([[3.0, 1.0], [2.0, 2.0]])
    np.testing.assert_allclose(make_advantages(group, per_answer).values, [2.0, 2.0])
    result = make_advantages(lone, per_answer, unit_bonus=1.0)
    np.testing.assert_array_equal(result.values, 0.0)
    np.testing.assert_array_equal(result.per_unit, 0.0)
    np.testing.assert_allclose(result.per_answer, [[3.0, 1.0], [0.0, 0.0]])


def test_advantages_per_allocation_need_an_axis_of_answers():
    # [M] would broadcast along the answers, silently, where M = N.
    group = group_of(jnp.ones((3, 3)), SCALES[:3])
    with pytest.raises(ValueError, match="^per_answer .* as many axes"):
        make_advantages(group, group.cost)
    with pytest.raises(ValueError, match="^cost .* as many axes"):
        make_advantages(group, group.cost[:, None], cost=group.cost)
