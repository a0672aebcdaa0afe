"""The estimators CAPO is compared with, and the one call that picks among all of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.advantages import (
    AccuracyOnlyConfig,
    AdvantageConfig,
    CapoConfig,
    DirectCostConfig,
    accuracy_only,
    capo,
    direct_cost,
    estimate,
)

# Mean scales .4, .6, 1.2, 1.6 in [.2, 1.8]: costs .125, .25, .625, .875.
SCALES = jnp.array([[0.4], [0.6], [1.2], [1.6]])
UNIT_MASK = jnp.ones(1, bool)


def _column(*values):
    return jnp.array(values)[:, None]


def test_accuracy_only_ignores_cost():
    result = accuracy_only(_column(1.0, 1.0, 1.0, 0.0), SCALES, UNIT_MASK)
    # mean .75, std √(3/16) = .43301: .25/.43301 = .57735, -.75/.43301 = -1.73205
    np.testing.assert_allclose(result.values, [0.57735, 0.57735, 0.57735, -1.73205], atol=1e-5)
    np.testing.assert_allclose(result.cost, [0.125, 0.25, 0.625, 0.875], atol=1e-6)
    tied = accuracy_only(_column(1.0, 1.0, 1.0, 1.0), SCALES, UNIT_MASK)
    np.testing.assert_array_equal(tied.values, 0.0)


def test_direct_cost_is_inside_the_normalisation():
    # λ = .4: R = 1 - .05, 0 - .1, 1 - .25, 0 - .35 = .95, -.1, .75, -.35; mean .3125, deviations
    # .6375, -.4125, .4375, -.6625; squares sum to 1.206875, std √.30171875 = .549289.
    result = direct_cost(
        _column(1.0, 0.0, 1.0, 0.0), SCALES, UNIT_MASK, DirectCostConfig(cost_weight=0.4)
    )
    np.testing.assert_allclose(result.values, [1.16059, -0.75097, 0.79648, -1.20610], atol=1e-5)


def test_direct_cost_has_unit_size_in_tied_groups_whatever_its_weight():
    def tied(weight):
        config = DirectCostConfig(cost_weight=weight)
        return direct_cost(_column(1.0, 1.0, 1.0, 1.0), SCALES, UNIT_MASK, config).values

    np.testing.assert_allclose(tied(0.05), tied(1.0), atol=1e-3)
    np.testing.assert_allclose(np.std(tied(0.05)), 1.0, atol=1e-3)
    # The same cost outside the normalisation stays as small as its coefficient.
    config = CapoConfig(lambda_capo=0.0, gamma=0.05, positive_floor=None)
    outside = capo(_column(1.0, 1.0, 1.0, 1.0), SCALES, UNIT_MASK, config).values
    assert np.std(outside) < 0.05


def test_zero_cost_weight_is_accuracy_only():
    accuracy = _column(1.0, 0.0, 0.2, 0.0)
    free = direct_cost(accuracy, SCALES, UNIT_MASK, DirectCostConfig(cost_weight=0.0))
    np.testing.assert_array_equal(free.values, accuracy_only(accuracy, SCALES, UNIT_MASK).values)


def test_answers_are_compared_across_the_whole_prompt():
    accuracy = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    result = accuracy_only(accuracy, SCALES, UNIT_MASK)
    # mean 1/8, std √(7)/8 = .330719: .875/.330719 = 2.645751 and -.377964; average 1.133893.
    np.testing.assert_allclose(result.per_answer[0], [2.645751, -0.377964], atol=2e-5)
    np.testing.assert_allclose(result.values[0], 1.133893, atol=2e-5)


@pytest.mark.parametrize("config", [AccuracyOnlyConfig(), DirectCostConfig(), CapoConfig()])
def test_masked_answers_change_nothing(config):
    accuracy, mask = _column(1.0, 0.0, 1.0, jnp.nan), _column(True, True, True, False)
    scales = SCALES.at[3].set(jnp.nan)
    result = estimate(accuracy, scales, UNIT_MASK, config, mask=mask)
    expected = estimate(accuracy[:3], scales[:3], UNIT_MASK, config)
    np.testing.assert_allclose(result.values, [*expected.values, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("config", "function"),
    [
        (AccuracyOnlyConfig(), accuracy_only),
        (DirectCostConfig(cost_weight=0.7), direct_cost),
        (CapoConfig(form="released"), capo),
    ],
)
def test_the_config_picks_the_estimator(config, function):
    arguments = (_column(1.0, 0.0, 1.0, 0.0), SCALES, UNIT_MASK, config)
    np.testing.assert_array_equal(estimate(*arguments).values, function(*arguments).values)


def test_a_config_without_an_estimator_is_an_error():
    with pytest.raises(TypeError, match="AdvantageConfig"):
        estimate(_column(1.0), SCALES[:1], UNIT_MASK, AdvantageConfig())
