"""CAPO against worked groups, and against a plain-Python transcription of the equations."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.advantages import CapoConfig, GroupNorm, capo, make_group
from tests.advantages.worked_group import (
    ALL_RIGHT,
    ALL_WRONG,
    COSTS,
    MIXED,
    SCALES,
    UNIT_MASK,
    group_of,
)

PAPER = CapoConfig(form="paper")
RELEASED = CapoConfig(form="released")
# The setting of the runs behind the paper's tables.
PUBLISHED_RUNS = CapoConfig(
    form="released", lambda_plus=0.9, lambda_minus=1.2, shaping_cap=0.25, positive_floor=None
)

# Costs .125, .25, .625, .875, with mean .46875, so the pivot is .5·.46875 + .5·.4 = .434375. The
# z-score of 1, 0, 1, 0 is ±.5/(.5 + 1e-6) = ±.999998.


def _capo(accuracy, config, **kwargs):
    return capo(group_of(accuracy, **kwargs), config)


def test_parts_of_the_worked_group():
    result = _capo(MIXED, PAPER)
    np.testing.assert_allclose(result.terms["cost"], COSTS, atol=1e-6)
    np.testing.assert_allclose(result.terms["pivot"], [0.434375] * 4, atol=1e-6)
    np.testing.assert_allclose(result.terms["base"], [0.999998, -0.999998] * 2, atol=1e-6)


# First allocation, right and cheap: z = (.434375 - .125)/.15 = 2.0625, σ(z) = .887204.
#   paper:    S = .7·.887204 = .62104;           A = .999998 + .25·.62104 - .05·.125 = 1.14901
#   released: S = .7·(.887204 - .5) = .27104;    A = .999998 + .06776 - .00625 = 1.06151
#   runs:     S = .9·.387204 = .34848, cap .25;  A = .999998 + .0625 - .00625 = 1.05625
# Fourth, wrong and dear: z = (.875 - .434375)/.15 = 2.9375, σ(z) = .949669.
#   paper:    S = -1.3·.949669 = -1.23457;       A = -.999998 - .308643 - .04375 = -1.35239
#   released: S = +1.3·.449669 = +.58457;        A = -.999998 + .146143 - .04375 = -.89761
#             (the paper's sign on the centred form would give -1.18989)
@pytest.mark.parametrize(
    ("config", "shaping", "values"),
    [
        (PAPER, [0.62104, -0.29423, 0.15338, -1.23457], [1.14901, -1.08605, 1.00709, -1.35239]),
        (RELEASED, [0.27104, -0.35577, -0.19662, 0.58457], [1.06151, -1.10144, 0.91959, -0.89761]),
        (PUBLISHED_RUNS, [0.25, -0.25, -0.25, 0.25], [1.05625, -1.075, 0.90625, -0.98125]),
    ],
)
def test_worked_group(config, shaping, values):
    result = _capo(MIXED, config)
    np.testing.assert_allclose(result.terms["shaping"], shaping, atol=6e-6)
    np.testing.assert_allclose(result.values, values, atol=6e-6)
    np.testing.assert_allclose(result.per_answer[:, 0], values, atol=6e-6)


# All right: the base is 0, so A = .25·S - .05·c, and at least .001. Third, dear:
# σ((.434375 - .625)/.15) = .219115; paper .25·.7·.219115 - .03125 = .00710; released
# .25·.7·(.219115 - .5) - .03125 = -.0804, lifted to the floor. Fourth, paper: .25·.7·.050331 -
# .04375 = -.03494, lifted.
@pytest.mark.parametrize(
    ("config", "values"),
    [
        (PAPER, [0.14901, 0.12289, 0.00710, 0.001]),
        (RELEASED, [0.06151, 0.03539, 0.001, 0.001]),
        (dataclasses.replace(PAPER, positive_floor=None), [0.14901, 0.12289, 0.00710, -0.03494]),
    ],
)
def test_all_right(config, values):
    np.testing.assert_allclose(_capo(ALL_RIGHT, config).values, values, atol=6e-6)


# All wrong: the base is 0 and there is no floor. The paper punishes the dear ones most, the
# released code the cheap ones. First: σ((.125 - .434375)/.15) = .112796; paper -.25·1.3·.112796 -
# .00625 = -.0429; released .25·1.3·(.112796 - .5) - .00625 = -.1321.
@pytest.mark.parametrize(
    ("config", "values"),
    [
        (PAPER, [-0.0429, -0.0861, -0.2850, -0.3524]),
        (RELEASED, [-0.1321, -0.1014, 0.0600, 0.1024]),
    ],
)
def test_all_wrong(config, values):
    np.testing.assert_allclose(_capo(ALL_WRONG, config).values, values, atol=6e-5)


def _sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def _zscore(values, norm):
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return [0.0 if std < norm.min_std else (v - mean) / (std + norm.epsilon) for v in values]


def _paper_by_hand(accuracy, cost, config):
    """Equations (14)-(17), answer by answer."""
    count = len(accuracy[0])
    base = _zscore([a for row in accuracy for a in row], config.norm)
    tau = config.kappa_mix * sum(cost) / len(cost) + (1 - config.kappa_mix) * config.tau_fix
    values = []
    for m, c in enumerate(cost):
        total = 0.0
        for n in range(count):
            right = accuracy[m][n] > 0.35
            if right:
                shaping = config.lambda_plus * _sigmoid((tau - c) / config.tau_s)
            else:
                shaping = -config.lambda_minus * _sigmoid((c - tau) / config.tau_s)
            value = base[m * count + n] + config.lambda_capo * shaping - config.gamma * c
            total += max(value, config.positive_floor) if right else value
        values.append(total / count)
    return values


def _released_by_hand(accuracy, cost, config):
    """The released code's steps, allocation by allocation."""
    mean = [sum(row) / len(row) for row in accuracy]
    base = _zscore(mean, config.norm)
    tau = config.kappa_mix * sum(cost) / len(cost) + (1 - config.kappa_mix) * config.tau_fix
    values = []
    for m, c in enumerate(cost):
        right = mean[m] > 0.35
        if right:
            weight = max(mean[m] ** config.accuracy_power, config.accuracy_floor)
            shaping = config.lambda_plus * weight * (_sigmoid((tau - c) / config.tau_s) - 0.5)
        else:
            weight = (1 - mean[m]) ** config.error_power
            shaping = config.lambda_minus * weight * (_sigmoid((c - tau) / config.tau_s) - 0.5)
        value = base[m] + config.lambda_capo * shaping - config.gamma * c
        values.append(max(value, config.positive_floor) if right else value)
    return values


@pytest.mark.parametrize(
    ("form", "by_hand"), [("paper", _paper_by_hand), ("released", _released_by_hand)]
)
def test_several_answers_with_partial_accuracy(form, by_hand):
    rng = np.random.default_rng(0)
    accuracy = rng.choice([0.0, 0.2, 0.3, 0.4, 0.7, 1.0], (8, 5, 3))
    scales = rng.uniform(0.3, 1.5, (8, 5, 7))
    config = CapoConfig(
        form=form,
        kappa_mix=0.7,
        tau_fix=0.2,
        tau_s=0.1,
        lambda_capo=1.5,
        gamma=0.6,
        positive_floor=0.05,
        accuracy_power=0.8,
        accuracy_floor=0.7,
        error_power=1.7,
    )
    make = jax.jit(partial(group_of, s_min=0.3, s_max=1.5))
    result = jax.jit(capo, static_argnames="config")(
        make(accuracy, scales, np.ones((8, 7), bool)), config
    )
    for row in range(8):
        cost = [(s - 0.3) / 1.2 for s in scales[row].mean(-1)]
        np.testing.assert_allclose(
            result.values[row], by_hand(accuracy[row].tolist(), cost, config), atol=1e-5
        )


def test_texts_alone_are_not_shaped():
    """Nothing could be saved: what is left is the z-score of 1, 0, 1, 0."""
    nothing = jnp.zeros_like(UNIT_MASK)
    for config in (PAPER, RELEASED):
        result = capo(group_of(MIXED, unit_mask=nothing), config)
        np.testing.assert_allclose(result.values, [0.999998, -0.999998] * 2, atol=1e-6)
        np.testing.assert_array_equal(result.terms["shaping"], 0.0)


def test_forms_judge_different_units():
    # Accuracies 1 and 0 average .5 > .35: one of two answers is right, but so is the allocation.
    # First allocation, c = .125, z = 2.0625: σ(z) = .887204, σ(-z) = .112796.
    #   paper: (.7·.887204 - 1.3·.112796)/2 = .237204
    #   released: .7·√.5·(.887204 - .5) = .191656, for both answers
    accuracy = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    for config, shaping in ((PAPER, 0.237204), (RELEASED, 0.191656)):
        result = _capo(accuracy, config)
        np.testing.assert_allclose(result.terms["shaping"][0], shaping, atol=6e-6)
    np.testing.assert_array_equal(result.per_answer[0, 0], result.per_answer[0, 1])


def test_success_is_what_the_group_says():
    # Released: 1, 0, 1, 0 judged at .35 and, all wrong, at 1.
    released = dataclasses.replace(RELEASED, error_power=0.0)
    result = _capo(MIXED, released, success_threshold=1.0)
    # Wrong at z = -2.0625: 1.3·(.112796 - .5) = -.503365, though the accuracy is 1.
    np.testing.assert_allclose(result.terms["shaping"][0], -0.503365, atol=6e-6)
    # Paper: the grader's own verdict, whatever the accuracy.
    told = jnp.array([[False], [True], [False], [True]])
    result = _capo(MIXED, PAPER, success=told)
    np.testing.assert_allclose(result.terms["shaping"][0], -1.3 * 0.112796, atol=6e-6)


@pytest.mark.parametrize("config", [PAPER, RELEASED])
def test_parts_add_up_without_a_floor(config):
    config = dataclasses.replace(config, positive_floor=None)
    result = _capo([0.7, 0.2, 1.0, 0.0], config)
    terms = result.terms
    parts = terms["base"] + config.lambda_capo * terms["shaping"] - config.gamma * terms["cost"]
    np.testing.assert_allclose(result.values, parts, atol=1e-6)
    np.testing.assert_allclose(result.per_answer.mean(-1), result.values, atol=1e-6)


def test_base_is_the_reward_on_paper_and_the_accuracy_as_released():
    # The reward carries a format part that turns the order around; accuracy says what is right.
    parts = {
        "accuracy": jnp.array(MIXED)[:, None],
        "format": jnp.array([-2.0, 0.0, -2.0, 0.0])[:, None],
    }
    group = make_group(parts, SCALES, UNIT_MASK, s_min=0.2, s_max=1.8)
    base = np.array([1, -1, 1, -1]) * 0.999998
    np.testing.assert_allclose(capo(group, PAPER).terms["base"], -base, atol=1e-6)
    np.testing.assert_allclose(capo(group, RELEASED).terms["base"], base, atol=1e-6)
    for config in (PAPER, RELEASED):
        shaping = capo(group, config).terms["shaping"]
        np.testing.assert_allclose(shaping, _capo(MIXED, config).terms["shaping"], atol=1e-6)


def test_cost_outside_the_normalisation():
    # λ_capo = 0 and no floor: a tied group keeps exactly -γ·c, whatever γ.
    config = CapoConfig(lambda_capo=0.0, gamma=1.5, positive_floor=None)
    for accuracy in (ALL_RIGHT, ALL_WRONG):
        np.testing.assert_allclose(
            _capo(accuracy, config).values, [-1.5 * c for c in COSTS], atol=1e-6
        )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"form": "papr"}, "form"),
        ({"tau_s": 0.0}, "tau_s"),
        ({"kappa_mix": 1.5}, "kappa_mix"),
    ],
)
def test_impossible_configs_are_errors(fields, named):
    with pytest.raises(ValueError, match=named):
        CapoConfig(**fields)


def test_config_is_hashable_and_carries_the_normalisation():
    config = CapoConfig(norm=GroupNorm(epsilon=1.0))
    assert hash(config) != hash(PAPER)
    # std .5, so ±.5/(.5 + 1) = ±.33333
    base = _capo(MIXED, config).terms["base"]
    np.testing.assert_allclose(base, np.array([1, -1, 1, -1]) / 3, atol=1e-6)
