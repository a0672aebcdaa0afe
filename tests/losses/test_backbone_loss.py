"""The backbone's objective: GRPO, Dr.GRPO, DAPO and GSPO by hand, by numpy and by differences."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.losses import BackboneLossConfig, add_sums, backbone_loss

GRPO = BackboneLossConfig.grpo()
NO_KL = dataclasses.replace(GRPO, kl_weight=0.0)
DR_GRPO = BackboneLossConfig.dr_grpo(max_length=8)
DAPO = BackboneLossConfig.dapo()
# With the published range of a few 1e-4 next to no random answer is inside.
GSPO = dataclasses.replace(BackboneLossConfig.gspo(), clip_low=0.2, clip_high=0.3)
CONFIGS = {
    "resadapt": BackboneLossConfig(dual_clip=1.2),  # low enough for these ratios to reach it
    "grpo": GRPO,
    "dr_grpo": dataclasses.replace(DR_GRPO, kl_weight=0.1, kl_estimator="k2"),
    "dapo": DAPO,
    "gspo": GSPO,
}
EVERY = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
LENGTHS = np.array([[[4, 1], [0, 3]], [[2, 4], [4, 0]], [[0, 0], [0, 0]]])  # [B, M, N]
ARRAYS = ("log_probs", "old_log_probs", "ref_log_probs")


@functools.partial(jax.jit, static_argnames="config")
def _loss(arrays, config):
    ref = arrays.get("ref_log_probs")
    names = ("log_probs", "old_log_probs", "advantages", "mask")
    return backbone_loss(*(arrays[name] for name in names), config, ref_log_probs=ref)


@functools.partial(jax.jit, static_argnames="config")
def _gradient(arrays, config):
    """Of the total, with respect to every array of numbers."""
    numbers = {name: array for name, array in arrays.items() if name != "mask"}
    return jax.grad(lambda numbers: _loss(arrays | numbers, config)[0].total)(numbers)


def _inputs():
    rng = np.random.default_rng(0)
    shape = (3, 2, 2, 4)
    arrays = {name: rng.normal(-1.0, 0.3, shape) for name in ARRAYS}
    arrays["advantages"] = rng.normal(0.0, 1.0, shape[:3])
    arrays = {name: jnp.array(array, jnp.float32) for name, array in arrays.items()}
    return arrays | {"mask": jnp.array(np.arange(4) < LENGTHS[..., None])}


# Two answers of 3 and 1 tokens, A = 1 and -2, ratios 1.1, 1.5, .9 and .5; range [.8, 1.2], for
# DAPO [.8, 1.28].
#   tokens: -1.1, -1.2 (DAPO -1.28), -.9; and .8·2 = 1.6
#   GRPO: the means -1.066667 and 1.6 average to .266667
#   Dr.GRPO, length 8: the sums -3.2 and 1.6 over 8, averaged: -.1
#   DAPO: (-3.28 + 1.6)/4 = -.42
#   GSPO, range [.8, 1.3]: s = (1.1·1.5·.9)^(1/3) = 1.140885, and .8 for .5: (-1.140885 + 1.6)/2;
#     the ratio of the whole answer, 1.485, would be clipped and give (-1.3 + 1.6)/2.
@pytest.mark.parametrize(
    ("config", "mean", "weight"),
    [(NO_KL, 0.266667, 2), (DR_GRPO, -0.1, 2), (DAPO, -0.42, 4), (GSPO, 0.2295575, 2)],
    ids=["grpo", "dr_grpo", "dapo", "gspo"],
)
def test_worked_answers(config, mean, weight):
    old = jnp.full((1, 1, 2, 3), -0.7)
    ratios = jnp.array([[[[1.1, 1.5, 0.9], [0.5, 1.0, 1.0]]]])
    arrays = {
        "log_probs": old + jnp.log(ratios),
        "old_log_probs": old,
        "advantages": jnp.array([[[1.0, -2.0]]]),
        "mask": jnp.array([[[[True, True, True], [True, False, False]]]]),
    }
    loss, metrics = _loss(arrays, config)
    np.testing.assert_allclose(loss.mean(), mean, atol=2e-6)
    assert loss.weight == weight
    tokens = {name: float(metrics[name].mean()) for name in ("clipped_high", "clipped_low")}
    high = {NO_KL: 0.25, DR_GRPO: 0.25, DAPO: 0.25, GSPO: 0.0}[config]
    assert tokens == {"clipped_high": high, "clipped_low": 0.25}


def test_kl_is_added_with_its_weight():
    old = jnp.full((1, 1, 1, 2), -0.7)
    arrays = {
        "log_probs": old,
        "old_log_probs": old,
        "ref_log_probs": old - np.log([[[[2.0, 1.0]]]]),
        "advantages": jnp.full((1, 1, 1), 3.0),
        "mask": jnp.ones((1, 1, 1, 2), bool),
    }
    # k3 of r = log 2: 1/2 - 1 + .693147 = .193147, and of 0: 0. -3 + .04·.193147/2 = -2.996137.
    loss, metrics = _loss(arrays, GRPO)
    np.testing.assert_allclose(loss.mean(), -2.996137, atol=1e-6)
    np.testing.assert_allclose(metrics["kl"].mean(), 0.0965736, atol=1e-6)
    np.testing.assert_allclose(metrics["surrogate"].mean(), -3.0, atol=1e-6)
    with pytest.raises(ValueError, match="kl_weight is 0.04"):
        _loss({name: arrays[name] for name in arrays if name != "ref_log_probs"}, GRPO)
    # Without a weight it is still reported.
    loss, metrics = _loss(arrays, NO_KL)
    np.testing.assert_allclose(loss.mean(), -3.0, atol=1e-6)
    np.testing.assert_allclose(metrics["kl"].mean(), 0.0965736, atol=1e-6)


def _gspo_by_numpy(log_probs, old, advantages, low, high):
    """J of arXiv 2507.18071, eq. (5) and (7), negated: answers are lists of their tokens."""
    losses = []
    for new_tokens, old_tokens, advantage in zip(log_probs, old, advantages, strict=True):
        likelihood, old_likelihood = np.exp(np.sum(new_tokens)), np.exp(np.sum(old_tokens))
        ratio = (likelihood / old_likelihood) ** (1 / len(new_tokens))
        clipped = np.clip(ratio, 1 - low, 1 + high)
        losses.append(-min(ratio * advantage, clipped * advantage))
    return np.mean(losses)


def test_gspo_is_the_paper_in_value_and_by_finite_differences():
    arrays = _inputs()
    answers = [place for place in np.ndindex(LENGTHS.shape) if LENGTHS[place]]
    tokens = {
        name: [np.asarray(arrays[name][p], np.float64)[: LENGTHS[p]] for p in answers]
        for name in ("log_probs", "old_log_probs")
    }
    advantages = [float(arrays["advantages"][place]) for place in answers]

    def by_numpy(new):
        return _gspo_by_numpy(new, tokens["old_log_probs"], advantages, 0.2, 0.3)

    loss, metrics = _loss(arrays, GSPO)
    assert loss.weight == len(answers) == 6
    np.testing.assert_allclose(loss.mean(), by_numpy(tokens["log_probs"]), rtol=1e-5)
    clipped = metrics["clipped_high"].total + metrics["clipped_low"].total
    assert 0.0 < clipped < metrics["ratio"].weight  # some answers are inside, some are not
    gradient = _gradient(arrays, GSPO)["log_probs"] / len(answers)
    for i, place in enumerate(answers):
        for t in range(LENGTHS[place]):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [array.copy() for array in tokens["log_probs"]]
                moved[i][t] += step
                ends.append(by_numpy(moved))
            expected = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(gradient[place][t], expected, rtol=1e-4, atol=1e-7)


def _token_by_token(arrays, config):
    """Eq. (24) and the divergence, token by token, in plain Python."""
    a = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    per_answer = []
    for place in np.ndindex(LENGTHS.shape):
        losses = []
        for t in range(LENGTHS[place]):
            advantage, new = a["advantages"][place], a["log_probs"][place][t]
            ratio = np.exp(new - a["old_log_probs"][place][t])
            bounded = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
            value = -min(ratio * advantage, bounded * advantage)
            if config.dual_clip and advantage < 0:
                value = min(value, -config.dual_clip * advantage)
            log_ratio = new - a["ref_log_probs"][place][t]
            k3 = np.exp(-log_ratio) - 1 + log_ratio
            kl = k3 if config.kl_estimator == "k3" else log_ratio**2 / 2
            losses.append(value + config.kl_weight * kl)
        if losses:
            per_answer.append(losses)
    if config.aggregation == "token-mean":
        return np.mean(sum(per_answer, []))
    if config.aggregation == "sequence-mean-token-mean":
        return np.mean([np.mean(losses) for losses in per_answer])
    return np.mean([np.sum(losses) / config.max_length for losses in per_answer])


@pytest.mark.parametrize("name", ["resadapt", "grpo", "dr_grpo", "dapo"])
def test_equals_the_equations(name):
    arrays = _inputs()
    loss, metrics = _loss(arrays, CONFIGS[name])
    np.testing.assert_allclose(loss.mean(), _token_by_token(arrays, CONFIGS[name]), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"].mean(), loss.mean(), rtol=1e-6)
    assert (metrics["dual_clipped"].total > 0) == (name == "resadapt")


@EVERY
def test_padding_holds_anything(config):
    arrays = _inputs()
    mask = arrays["mask"]
    poison = {name: jnp.where(mask, arrays[name], jnp.nan) for name in ARRAYS}
    poison["advantages"] = jnp.where(mask.any(-1), arrays["advantages"], jnp.nan)
    for function in (_loss, _gradient):
        clean, poisoned = function(arrays, config), function(arrays | poison, config)
        jax.tree.map(np.testing.assert_array_equal, clean, poisoned)
    gradients = _gradient(arrays | poison, config)
    assert np.any(gradients["log_probs"] != 0.0)
    np.testing.assert_array_equal(jnp.where(mask, 0.0, gradients["log_probs"]), 0.0)
    for name in ("old_log_probs", "ref_log_probs", "advantages"):
        np.testing.assert_array_equal(gradients[name], 0.0, err_msg=name)


@EVERY
def test_micro_batches_add_up_in_value_and_gradient(config):
    arrays = _inputs()
    whole, metrics = _loss(arrays, config)
    # One prompt at a time: of 8, 10 and 0 tokens.
    cuts = [{name: array[b : b + 1] for name, array in arrays.items()} for b in range(3)]
    parts = [_loss(cut, config) for cut in cuts]
    summed = functools.reduce(add_sums, (part[1] for part in parts))
    went, expected = summed.pop("log_ratio"), metrics["log_ratio"]
    np.testing.assert_allclose(went.lowest, expected.lowest, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(went.highest, expected.highest, rtol=1e-5, atol=1e-6)
    for name, total in summed.items():
        np.testing.assert_allclose(total.mean(), metrics[name].mean(), rtol=1e-5, atol=1e-7)
        assert total.weight == metrics[name].weight
    gradients = [_gradient(cut, config)["log_probs"] for cut in cuts]
    expected = _gradient(arrays, config)["log_probs"]
    np.testing.assert_allclose(np.concatenate(gradients), expected, rtol=1e-5, atol=1e-7)
    mean_of_means = np.mean([part[0].mean() for part in parts])
    assert abs(mean_of_means - whole.mean()) > 1e-3


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_gradient_on_a_boundary_is_whole(ratio):
    # A range of zero width puts equal policies on both boundaries: -A/length per token, not half.
    config = BackboneLossConfig(clip_low=0.0, clip_high=0.0, ratio=ratio)
    arrays = _inputs()
    arrays |= {"log_probs": arrays["old_log_probs"], "mask": jnp.ones((3, 2, 2, 4), bool)}
    expected = -np.broadcast_to(arrays["advantages"][..., None], (3, 2, 2, 4)) / 4
    gradient = _gradient(arrays, config)["log_probs"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    assert float(_loss(arrays, config)[1]["ratio"].mean()) == 1.0


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_beyond_a_boundary_there_is_no_gradient(advantage):
    # Token ratios 1.5 and 1/1.5, whose geometric mean is 1: per token the one that went the way of
    # the advantage is clipped; per answer neither is.
    log_probs = jnp.log(jnp.array([1.5, 1 / 1.5])) - 1.0
    arrays = {
        "log_probs": log_probs[None, None, None],
        "old_log_probs": jnp.full((1, 1, 1, 2), -1.0),
        "advantages": jnp.full((1, 1, 1), advantage),
        "mask": jnp.ones((1, 1, 1, 2), bool),
    }
    gradient = _gradient(arrays, DAPO)["log_probs"][0, 0, 0]
    expected = [0.0, -1 / 1.5] if advantage > 0 else [1.5, 0.0]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    gradient = _gradient(arrays, GSPO)["log_probs"][0, 0, 0]
    np.testing.assert_allclose(gradient, [-advantage / 2] * 2, rtol=1e-5)


def test_presets():
    config = BackboneLossConfig.gspo()
    assert (config.clip_low, config.clip_high, config.ratio) == (3e-4, 4e-4, "sequence")
    assert config.aggregation == "sequence-mean-token-mean"
    assert (DAPO.clip_low, DAPO.clip_high, DAPO.aggregation) == (0.2, 0.28, "token-mean")
    assert (GRPO.clip_high, GRPO.kl_weight, GRPO.kl_estimator) == (0.2, 0.04, "k3")
    assert (DR_GRPO.aggregation, DR_GRPO.max_length) == ("sequence-mean-token-sum", 8)
    assert len({GRPO, DR_GRPO, DAPO, config}) == 4


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"ratio": "answer"}, "ratio must be one of"),
        ({"aggregation": "mean"}, "aggregation must be one of"),
        ({"kl_estimator": "k4"}, "kl_estimator must be one of"),
        ({"kl_weight": -1.0}, "kl_weight"),
        ({"aggregation": "sequence-mean-token-sum"}, "max_length belongs to"),
        ({"max_length": 8}, "max_length belongs to"),
        ({"aggregation": "sequence-mean-token-sum", "max_length": 0}, "max_length must be"),
    ],
)
def test_impossible_configs_are_errors(fields, named):
    with pytest.raises(ValueError, match=named):
        BackboneLossConfig(**fields)


def test_shapes_that_disagree_are_errors():
    tokens, answers = jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2))
    mask = jnp.ones((1, 2, 2, 3), bool)
    with pytest.raises(ValueError, match="shape"):
        backbone_loss(tokens, tokens[..., :1], answers, mask)
    with pytest.raises(ValueError, match="shape"):
        backbone_loss(tokens, tokens, answers, mask, ref_log_probs=tokens[:, :1])
    with pytest.raises(ValueError, match="one per answer"):
        # It would broadcast, the advantages of allocations falling on answers.
        backbone_loss(tokens, tokens, answers[:, 0], mask)
