"""CAPO against worked groups, and against a plain-Python transcription of the equations."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.advantages import CapoConfig, GroupNorm, capo, proxy_cost

PAPER = CapoConfig(form="paper")
RELEASED = CapoConfig(form="released")
# The setting of the runs behind the paper's tables.
PUBLISHED_RUNS = CapoConfig(
    form="released", lambda_plus=0.9, lambda_minus=1.2, shaping_cap=0.25, positive_floor=None
)

# One prompt, four allocations, one answer each. Scales in [.2, 1.8] whose means are .4, .6, 1.2
# and 1.6, so c = (mean - .2)/1.6 = .125, .25, .625, .875, with mean .46875, and the pivot is
# .5·.46875 + .5·.4 = .434375. The z-score of 1, 0, 1, 0 is ±.5/(.5 + 1e-6) = ±.999998.
COSTS = [0.125, 0.25, 0.625, 0.875]
SCALES = jnp.array(
    [[0.2, 0.4, 0.6], [0.6, 0.6, 0.6], [1.8, 1.2, 0.6], [1.8, 1.4, 1.6]], jnp.float32
)
UNIT_MASK = jnp.ones(3, bool)
MIXED, ALL_RIGHT, ALL_WRONG = [1.0, 0.0, 1.0, 0.0], [1.0] * 4, [0.0] * 4


def _capo(accuracy, config, **kwargs):
    return capo(jnp.array(accuracy)[:, None], SCALES, UNIT_MASK, config, **kwargs)


def test_parts_of_the_worked_group():
    result = _capo(MIXED, PAPER)
    np.testing.assert_allclose(result.cost, COSTS, atol=1e-6)
    np.testing.assert_allclose(result.pivot, 0.434375, atol=1e-6)
    np.testing.assert_allclose(result.base, np.array([1, -1, 1, -1]) * 0.999998, atol=1e-6)
    np.testing.assert_array_equal(result.success, MIXED)


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
    np.testing.assert_allclose(result.shaping, shaping, atol=6e-6)
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
            right = accuracy[m][n] > config.success_threshold
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
        right = mean[m] > config.success_threshold
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
        s_min=0.3,
        s_max=1.5,
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
    result = capo(accuracy, scales, np.ones((8, 7), bool), config)
    for row in range(8):
        cost = [(s - 0.3) / 1.2 for s in scales[row].mean(-1)]
        np.testing.assert_allclose(
            result.values[row], by_hand(accuracy[row].tolist(), cost, config), atol=1e-5
        )


def test_forms_judge_different_units():
    # Accuracies 1 and 0 average .5 > .35: half right per answer, all right per allocation.
    accuracy = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    for config, success in ((PAPER, [0.5, 0.0, 0.0, 1.0]), (RELEASED, [1.0, 0.0, 0.0, 1.0])):
        result = capo(accuracy, SCALES, UNIT_MASK, config)
        np.testing.assert_array_equal(result.success, success)


@pytest.mark.parametrize("config", [PAPER, RELEASED])
def test_parts_add_up_without_a_floor(config):
    config = dataclasses.replace(config, positive_floor=None)
    result = _capo([0.7, 0.2, 1.0, 0.0], config)
    parts = result.base + config.lambda_capo * result.shaping - config.gamma * result.cost
    np.testing.assert_allclose(result.values, parts, atol=1e-6)
    np.testing.assert_allclose(result.per_answer.mean(-1), result.values, atol=1e-6)


def test_success_is_strictly_above_the_threshold():
    result = _capo([0.35, 0.3501, 0.34, 1.0], PAPER)
    np.testing.assert_array_equal(result.success, [0.0, 1.0, 0.0, 1.0])


def test_base_normalises_rewards_and_success_reads_accuracy():
    # Rewards carry a format bonus that turns the order around; accuracy still says what is right.
    rewards = jnp.array([[0.0], [1.0], [0.0], [1.0]])
    result = _capo(MIXED, PAPER, rewards=rewards)
    np.testing.assert_allclose(result.base, np.array([-1, 1, -1, 1]) * 0.999998, atol=1e-6)
    np.testing.assert_array_equal(result.success, MIXED)


def test_cost_outside_the_normalisation():
    # λ_capo = 0 and no floor: a tied group keeps exactly -γ·c, whatever γ.
    config = CapoConfig(lambda_capo=0.0, gamma=1.5, positive_floor=None)
    for accuracy in (ALL_RIGHT, ALL_WRONG):
        np.testing.assert_allclose(
            _capo(accuracy, config).values, [-1.5 * c for c in COSTS], atol=1e-6
        )


@pytest.mark.parametrize("config", [PAPER, RELEASED])
def test_single_allocation_has_no_base(config):
    result = capo(jnp.array([[1.0]]), SCALES[:1], UNIT_MASK, config)
    np.testing.assert_array_equal(result.base, [0.0])
    assert np.all(np.isfinite(result.values))


@pytest.mark.parametrize("config", [PAPER, RELEASED])
def test_padding_holds_anything(config):
    accuracy = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.4, 1.0]])
    scales = jax.random.uniform(jax.random.key(3), (3, 4), minval=0.2, maxval=1.8)
    expected = capo(accuracy, scales, jnp.ones(4, bool), config)
    # A fourth allocation, a third answer and a fifth and sixth unit that do not exist.
    padded_accuracy = jnp.full((4, 3), jnp.nan).at[:3, :2].set(accuracy)
    padded_scales = jnp.full((4, 6), jnp.nan).at[:3, :4].set(scales)
    mask = jnp.zeros((4, 3), bool).at[:3, :2].set(True)
    unit_mask = jnp.arange(6) < 4
    result = capo(padded_accuracy, padded_scales, unit_mask, config, mask=mask)
    np.testing.assert_allclose(result.pivot, expected.pivot, atol=1e-6)
    np.testing.assert_allclose(result.per_answer[:3, :2], expected.per_answer, atol=1e-6)
    assert np.all(np.asarray(result.per_answer)[~np.asarray(mask)] == 0.0)
    for name in ("values", "base", "shaping", "cost", "success"):
        got, want = getattr(result, name), getattr(expected, name)
        np.testing.assert_allclose(got, [*want, 0.0], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("config", [PAPER, RELEASED])
def test_permuting_the_group_permutes_the_advantages(config):
    order = jnp.array([2, 0, 3, 1])
    expected = _capo(MIXED, config)
    result = capo(jnp.array(MIXED)[order][:, None], SCALES[order], UNIT_MASK, config)
    np.testing.assert_allclose(result.values, expected.values[order], atol=1e-6)
    np.testing.assert_allclose(result.pivot, expected.pivot, atol=1e-6)


@pytest.mark.parametrize("config", [PAPER, RELEASED])
def test_jit_vmap_and_leading_shapes_agree(config):
    rng = np.random.default_rng(4)
    accuracy, scales = rng.uniform(0, 1, (6, 4, 2)), rng.uniform(0.2, 1.8, (6, 4, 5))
    mask = rng.uniform(0, 1, (6, 5)) < 0.7
    eager = capo(accuracy, scales, mask, config)
    jitted = jax.jit(capo, static_argnames="config")(accuracy, scales, mask, config=config)
    single = jax.vmap(lambda *args: capo(*args, config))(accuracy, scales, mask)
    cut = [array.reshape(2, 3, *array.shape[1:]) for array in (accuracy, scales, mask)]
    nested = jax.tree.map(
        lambda leaf: leaf.reshape(6, *leaf.shape[2:]), jax.jit(lambda *a: capo(*a, config))(*cut)
    )
    for other in (jitted, single, nested):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), eager, other)
    assert {leaf.dtype for leaf in jax.tree.leaves(eager)} == {jnp.dtype("float32")}


def test_cost_counts_valid_units_and_stays_in_range():
    scales = jnp.array([[0.2, 1.8, 9.0], [1.0, 1.0, 9.0], [0.05, 0.1, 9.0]])
    unit_mask = jnp.array([True, True, False])
    # (1 - .2)/1.6 = .5 twice; a budget may push scales below s_min, which costs nothing.
    np.testing.assert_allclose(proxy_cost(scales, unit_mask, 0.2, 1.8), [0.5, 0.5, 0.0], atol=1e-6)
    np.testing.assert_array_equal(proxy_cost(scales, jnp.zeros(3, bool), 0.2, 1.8), 0.0)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"form": "papr"}, "form"),
        ({"tau_s": 0.0}, "tau_s"),
        ({"kappa_mix": 1.5}, "kappa_mix"),
        ({"s_min": 1.8, "s_max": 0.2}, "s_min"),
    ],
)
def test_impossible_configs_are_errors(fields, named):
    with pytest.raises(ValueError, match=named):
        CapoConfig(**fields)


def test_shapes_that_disagree_are_errors():
    accuracy = jnp.ones((2, 4, 1))
    with pytest.raises(ValueError, match="scales"):
        capo(accuracy, jnp.ones((2, 3, 5)), jnp.ones((2, 5), bool), PAPER)
    with pytest.raises(ValueError, match="unit_mask"):
        capo(accuracy, jnp.ones((2, 4, 5)), jnp.ones((5,), bool), PAPER)
    with pytest.raises(ValueError, match="rewards"):
        scales, unit_mask = jnp.ones((2, 4, 5)), jnp.ones((2, 5), bool)
        capo(accuracy, scales, unit_mask, PAPER, rewards=jnp.ones((2, 4)))


def test_config_is_hashable_and_carries_the_normalisation():
    config = CapoConfig(norm=GroupNorm(epsilon=1.0))
    assert hash(config) != hash(PAPER)
    # std .5, so ±.5/(.5 + 1) = ±.33333
    np.testing.assert_allclose(_capo(MIXED, config).base, np.array([1, -1, 1, -1]) / 3, atol=1e-6)
