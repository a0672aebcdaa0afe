"""The estimators CAPO is compared with, and the one call that picks among all of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.advantages import (
    CapoConfig,
    DirectCostConfig,
    GdpoConfig,
    GroupNorm,
    GrpoConfig,
    PiecewiseConfig,
    UnitCostConfig,
    capo,
    direct_cost,
    estimate,
    gdpo,
    grpo,
    make_group,
    piecewise,
)
from tests.advantages.worked_group import (
    ALL_RIGHT,
    ALL_WRONG,
    COSTS,
    MIXED,
    SCALES,
    UNIT_MASK,
    group_of,
)

CONFIGS = [
    CapoConfig(),
    CapoConfig(form="released"),
    GrpoConfig(),
    GrpoConfig(compare="allocation"),
    DirectCostConfig(),
    DirectCostConfig(normalised=False),
    GdpoConfig(),
    GdpoConfig(right_only=True),
    PiecewiseConfig(),
    UnitCostConfig(),
]
EVERY = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
BIASED = GroupNorm(unbiased=False)


def test_direct_cost_is_inside_the_normalisation():
    # λ = .4: R = 1 - .05, 0 - .1, 1 - .25, 0 - .35 = .95, -.1, .75, -.35; mean .3125, deviations
    # .6375, -.4125, .4375, -.6625; squares sum to 1.206875, std √.30171875 = .549289.
    result = direct_cost(group_of(MIXED), DirectCostConfig(cost_weight=0.4))
    np.testing.assert_allclose(result.values, [1.16059, -0.75097, 0.79648, -1.20610], atol=1e-5)


def test_cost_outside_the_normalisation_keeps_its_coefficient():
    # z(R) = ±.999998, less .4·c = .05, .1, .25, .35
    config = DirectCostConfig(cost_weight=0.4, normalised=False)
    result = direct_cost(group_of(MIXED), config)
    np.testing.assert_allclose(result.values, [0.94999, -1.1, 0.74999, -1.35], atol=2e-5)
    for tied in (ALL_RIGHT, ALL_WRONG):
        values = direct_cost(group_of(tied), config).values
        np.testing.assert_allclose(values, [-0.4 * c for c in COSTS], atol=1e-6)
    # It is CAPO without shaping and floor.
    plain = CapoConfig(lambda_capo=0.0, gamma=0.4, positive_floor=None)
    np.testing.assert_allclose(result.values, capo(group_of(MIXED), plain).values, atol=1e-6)


def test_direct_cost_has_unit_size_in_tied_groups_whatever_its_weight():
    small, large = (
        direct_cost(group_of(ALL_RIGHT), DirectCostConfig(cost_weight=weight)).values
        for weight in (0.05, 1.0)
    )
    np.testing.assert_allclose(small, large, atol=1e-3)
    np.testing.assert_allclose(np.std(small), 1.0, atol=1e-3)


def test_zero_cost_weight_is_grpo():
    group = group_of([1.0, 0.0, 0.2, 0.0])
    expected = grpo(group, GrpoConfig(norm=BIASED)).values
    for config in (
        DirectCostConfig(cost_weight=0.0),
        DirectCostConfig(cost_weight=0.0, normalised=False),
        GdpoConfig(cost_weight=0.0),
    ):
        np.testing.assert_array_equal(estimate(group, config).values, expected)


# -c = -.125, -.25, -.625, -.875: mean -.46875; deviations .34375, .21875, -.15625, -.40625, whose
# squares sum to .35546875; std √.08886719 = .298106; z = 1.15311, .73380, -.52414, -1.36277. A
# quarter of it is .28828, .18345, -.13104, -.34069, added to ±.999998. Normalising R - λ·c at once
# would give the second 1/3 of the first, not 4/7.
@pytest.mark.parametrize(
    ("right_only", "values"),
    [
        (False, [1.28828, -0.81655, 0.86896, -1.34069]),
        (True, [1.28828, -1.0, 0.86896, -1.0]),
    ],
)
def test_gdpo(right_only, values):
    config = GdpoConfig(cost_weight=0.25, right_only=right_only)
    np.testing.assert_allclose(gdpo(group_of(MIXED), config).values, values, atol=1e-5)


def test_gdpo_normalises_each_part_of_the_reward_by_itself():
    parts = {
        "accuracy": jnp.array([[1.0], [0.0], [0.0], [0.0]]),
        "format": jnp.array([[1.0], [1.0], [0.0], [0.0]]),
    }
    group = make_group(
        parts, SCALES, UNIT_MASK, reward_weights={"format": 0.5}, s_min=0.2, s_max=1.8
    )
    # accuracy: mean 1/4, std √3/4: √3 and -1/√3; format: ±1, halved. Their sum at once, 1.5, .5, 0,
    # 0, would have given 1.633, 0, -.816, -.816.
    values = gdpo(group, GdpoConfig(cost_weight=0.0)).values
    np.testing.assert_allclose(values, [2.23205, -0.07735, -1.07735, -1.07735], atol=1e-5)


def test_gdpo_compares_the_costs_of_allocations_that_were_answered():
    mask = jnp.array([[True, True, True], [True, False, False], [False] * 3])
    group = group_of(jnp.ones((3, 3)), SCALES[:3], mask=mask)
    # Two costs, .125 and .25, one each however many answers: ±1. The third has none.
    result = gdpo(group, GdpoConfig(cost_weight=1.0))
    np.testing.assert_allclose(result.values, [1.0, -1.0, 0.0], atol=2e-5)
    np.testing.assert_allclose(result.terms["saving"], [1.0, -1.0, 0.0], atol=2e-5)


def test_piecewise():
    # right, c = 1/8: .875^1.55 - .4·.125^1.15 = .813041 - .036602 = .776439
    # wrong, c = 1/4: .42·.75 - .95·.25 - .1·.0625 = .07125
    # right, c = 5/8: .375^1.55 - .4·.625^1.15 = .218650 - .232982 = -.014332
    # wrong, c = 7/8: .42·.125 - .95·.875 - .1·.765625 = -.855313
    # mean -.005489, std .578701: z = 1.351177, .132606, -.015281, -1.468503; less .05·c.
    result = piecewise(group_of(MIXED))
    np.testing.assert_allclose(result.values, [1.344927, 0.120106, -0.046531, -1.512253], atol=5e-6)


def test_piecewise_judges_the_mean_accuracy_of_an_allocation():
    # a = 1/2 at c = 1/4: .5·(.75^1.55 - .4·.25^1.15) + .25·.0775 - .05·.0625
    #   = .5·(.640243 - .081225) + .019375 - .003125 = .295759; (1 - a) not squared: .315134.
    # a = 1 at c = 1/8: .776439. a = 0 at c = 5/8: .42·.375 - .95·.625 - .0390625 = -.475313.
    # mean .198962, deviations .577477, .096797, -.674275: std √(.797497/3) = .515589.
    accuracy = jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    result = piecewise(group_of(accuracy, SCALES[:3]), PiecewiseConfig(gamma=0.0))
    np.testing.assert_allclose(result.values, [1.120033, 0.187741, -1.307776], atol=5e-6)
    np.testing.assert_allclose(result.per_answer[1], [0.187741] * 2, atol=5e-6)


def test_answers_are_compared_across_the_whole_prompt():
    accuracy = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    result = grpo(group_of(accuracy), GrpoConfig(norm=BIASED))
    # mean 1/8, std √(7)/8 = .330719: .875/.330719 = 2.645751 and -.377964; average 1.133893.
    np.testing.assert_allclose(result.per_answer[0], [2.645751, -0.377964], atol=2e-5)
    np.testing.assert_allclose(result.values[0], 1.133893, atol=2e-5)


# The groups below have the worked one's shape where they can: eager operations compile by shape.
PARTIAL = [1.0, 0.0, 0.4, 0.2]


@EVERY
def test_masked_answers_change_nothing(config):
    expected = estimate(group_of(PARTIAL), config)
    # A fifth allocation, a second answer, and a fourth unit that do not exist.
    mask = jnp.zeros((5, 2), bool).at[:4, :1].set(True)
    padded = group_of(
        jnp.full((5, 2), jnp.nan).at[:4, 0].set(jnp.array(PARTIAL)),
        jnp.full((5, 4), jnp.nan).at[:4, :3].set(SCALES),
        jnp.arange(4) < 3,
        mask=mask,
    )
    result = estimate(padded, config)
    np.testing.assert_allclose(result.per_answer[:4, :1], expected.per_answer, atol=1e-6)
    assert np.all(np.asarray(result.per_answer)[~np.asarray(mask)] == 0.0)
    np.testing.assert_allclose(result.values, [*expected.values, 0.0], atol=1e-6)
    for name, term in expected.terms.items():
        np.testing.assert_allclose(result.terms[name], [*term, 0.0], atol=1e-6, err_msg=name)


@EVERY
def test_without_answers_everything_is_zero(config):
    nothing = group_of([jnp.nan] * 4, SCALES * jnp.nan, mask=jnp.zeros((4, 1), bool))
    for leaf in jax.tree.leaves(estimate(nothing, config)):
        np.testing.assert_array_equal(leaf, 0.0)
    empty = estimate(group_of(jnp.ones((4, 0))), config)
    assert empty.per_answer.shape == (4, 0)
    np.testing.assert_array_equal(empty.values, 0.0)


@EVERY
def test_equal_rewards_at_equal_cost_leave_no_base(config):
    for accuracy in (0.7, 0.0):
        result = estimate(group_of([accuracy] * 4, jnp.full((4, 3), 0.9)), config)
        np.testing.assert_array_equal(result.terms["base"], 0.0)
        assert np.all(np.isfinite(result.per_answer))
        np.testing.assert_allclose(result.values, result.values[0], atol=1e-6)


@EVERY
def test_one_allocation_per_prompt_is_zero(config):
    only = jnp.array([False, True, False, False])[:, None]
    result = estimate(group_of(ALL_RIGHT, mask=only), config)
    np.testing.assert_array_equal(result.values, 0.0)
    assert np.all(np.isfinite(result.per_answer))


def test_one_allocation_drawn_is_zero_and_its_answers_are_still_compared():
    for config in (GrpoConfig(), CapoConfig()):
        result = estimate(group_of([[1.0, 0.0, 0.2]], SCALES[:1]), config)
        np.testing.assert_array_equal(result.values, [0.0])
        assert result.per_answer[0, 0] > 0.5 > -0.5 > result.per_answer[0, 1]


@EVERY
def test_permuting_the_group_permutes_the_advantages(config):
    order = jnp.array([2, 0, 3, 1])
    expected = estimate(group_of(PARTIAL), config)
    result = estimate(group_of(jnp.array(PARTIAL)[order], SCALES[order]), config)
    np.testing.assert_allclose(result.per_answer, expected.per_answer[order], atol=1e-6)


@EVERY
def test_jit_vmap_and_leading_shapes_agree(config):
    rng = np.random.default_rng(4)
    accuracy, scales = rng.uniform(0, 1, (4, 4, 1)), rng.uniform(0.2, 1.8, (4, 4, 3))
    unit_mask = rng.uniform(0, 1, (4, 3)) < 0.7
    each = zip(accuracy, scales, unit_mask, strict=True)
    prompts = [estimate(group_of(*prompt), config) for prompt in each]
    eager = jax.tree.map(lambda *leaves: np.stack(leaves), *prompts)
    group = jax.jit(group_of)(accuracy, scales, unit_mask)
    estimator = partial(estimate, config=config)
    whole, single = jax.jit(estimator)(group), jax.jit(jax.vmap(estimator))(group)
    cut = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), group)
    nested = jax.jit(estimator)(cut)
    nested = jax.tree.map(lambda leaf: leaf.reshape(4, *leaf.shape[2:]), nested)
    for other in (whole, single, nested):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), eager, other)
    assert {leaf.dtype for leaf in jax.tree.leaves(whole)} == {jnp.dtype("float32")}


def test_the_config_picks_the_estimator():
    group = group_of([1.0, 0.3, 1.0, 0.0])
    for config, function in (
        (GrpoConfig(norm=GroupNorm(epsilon=0.1)), grpo),
        (DirectCostConfig(cost_weight=0.7), direct_cost),
        (GdpoConfig(cost_weight=0.7), gdpo),
        (PiecewiseConfig(gamma=0.7), piecewise),
        (CapoConfig(form="released"), capo),
    ):
        expected = function(group, config).values
        np.testing.assert_array_equal(estimate(group, config).values, expected)
        assert not np.array_equal(expected, function(group).values)  # the config arrives


def test_bad_configs_are_errors():
    with pytest.raises(TypeError, match="GroupNorm"):
        estimate(group_of(MIXED), GroupNorm())
    with pytest.raises(ValueError, match="compare"):
        GrpoConfig(compare="batch")
