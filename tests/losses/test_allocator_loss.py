"""The allocator's objective as a whole."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.losses import (
    AllocatorLossConfig,
    ConcentrationConfig,
    SimilarityConfig,
    add_sums,
    allocator_loss,
)

CONFIGS = [
    AllocatorLossConfig(
        similarity=SimilarityConfig(form=form, margin=0.3),
        similarity_weight=0.5,
        concentration=ConcentrationConfig(form=form, kappa_max=4.0),
        concentration_weight=0.1,
    )
    for form in ("paper", "released")
]
BOTH = pytest.mark.parametrize("config", CONFIGS, ids=["paper", "released"])
LENGTHS = [5, 2, 1, 0]  # valid units of each prompt
LOSS = jax.jit(allocator_loss, static_argnames="config")
DIFFERENTIATED = ("log_probs", "mean_scales", "concentration", "unit_features")


def _inputs():
    rng = np.random.default_rng(0)
    shape = (4, 3, 5)
    arrays = {
        "log_probs": rng.normal(0.0, 0.5, shape),
        "old_log_probs": rng.normal(0.0, 0.5, shape),
        "advantages": rng.normal(0.0, 1.0, (*shape[:2], 1)),
        "mean_scales": rng.uniform(0.5, 1.5, (4, 5)),
        "concentration": rng.uniform(1.0, 8.0, (4, 5)),
        "unit_features": rng.normal(0.5, 1.0, (4, 5, 6)),
    }
    arrays = {name: jnp.array(array, jnp.float32) for name, array in arrays.items()}
    return arrays | {"unit_mask": jnp.arange(5)[None, :] < jnp.array(LENGTHS)[:, None]}


def _poisoned(arrays):
    """The same inputs with NaN in every unit that does not exist."""
    units = arrays["unit_mask"]
    masks = {
        "log_probs": units[:, None, :],
        "old_log_probs": units[:, None, :],
        "mean_scales": units,
        "concentration": units,
        "unit_features": units[:, :, None],
        "advantages": units.any(-1)[:, None, None],
    }
    return arrays | {name: jnp.where(mask, arrays[name], jnp.nan) for name, mask in masks.items()}


def _gradients(arrays, config):
    def mean(differentiated):
        return allocator_loss(**arrays | differentiated, config=config)[0].mean()

    return jax.jit(jax.grad(mean))({name: arrays[name] for name in DIFFERENTIATED})


def _by_hand(arrays, config):
    """Equations (18)-(23) for each prompt with units, in plain Python."""
    a = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    losses = []
    for b, length in enumerate(LENGTHS):
        if length == 0:
            continue
        surrogate = 0.0
        for m in range(3):
            for k in range(length):
                advantage = np.broadcast_to(a["advantages"][b, m], 5)[k]
                ratio = math.exp(a["log_probs"][b, m, k] - a["old_log_probs"][b, m, k])
                value = min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)
                surrogate -= max(value, 10 * advantage) if advantage < 0 else value
        scales = a["mean_scales"][b, :length]
        similarity = 0.0
        segments = a.get("unit_segments", np.zeros((4, 5)))[b]
        neighbours = [k for k in range(length - 1) if segments[k] == segments[k + 1]]
        for k in neighbours:
            first, second = a["unit_features"][b, k : k + 2]
            cosine = first @ second / math.sqrt((first @ first) * (second @ second))
            gate = 1 / (1 + math.exp(-(cosine - 0.6) / 0.15))
            if config.similarity.form == "paper":
                hinge = math.log(scales[k]) + math.log(scales[k + 1]) + 0.3
            else:
                hinge = math.log(scales[k + 1]) - math.log(scales[k]) + 0.3 * gate
            similarity += gate * max(0.0, hinge)
        penalty = a["concentration"][b, :length]
        if config.concentration.form == "paper":
            penalty = np.maximum(0.0, penalty - 4.0)
        losses.append(
            surrogate / (3 * length)
            + 0.5 * similarity / max(len(neighbours), 1)
            + 0.1 * float(penalty.mean())
        )
    return losses


@BOTH
def test_equals_the_equations(config):
    arrays = _inputs()
    loss, metrics = LOSS(**arrays, config=config)
    expected = _by_hand(arrays, config)
    # The prompt without units is not counted: three, not four.
    np.testing.assert_allclose(loss.weight, 3.0)
    np.testing.assert_allclose(loss.total, sum(expected), rtol=1e-5)
    terms = ("loss", "surrogate", "similarity", "concentration")
    mean = {name: float(metrics[name].mean()) for name in terms}
    parts = mean["surrogate"] + 0.5 * mean["similarity"] + 0.1 * mean["concentration"]
    np.testing.assert_allclose(parts, loss.mean(), rtol=1e-5)
    np.testing.assert_allclose(mean["loss"], loss.mean(), rtol=1e-6)
    assert mean["similarity"] > 0.0 and mean["concentration"] > 0.0


@BOTH
def test_units_may_have_advantages_of_their_own(config):
    advantages = jnp.array(np.random.default_rng(1).normal(size=(4, 3, 5)), jnp.float32)
    arrays = _inputs() | {"advantages": advantages}
    expected = sum(_by_hand(arrays, config))
    np.testing.assert_allclose(LOSS(**arrays, config=config)[0].total, expected, rtol=1e-5)


@BOTH
def test_units_of_other_segments_are_no_neighbours(config):
    arrays = _inputs()
    expected = sum(_by_hand(arrays, config))
    arrays["unit_segments"] = jnp.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [0] * 5, [0] * 5])
    apart = sum(_by_hand(arrays, config))
    assert abs(apart - expected) > 1e-3
    np.testing.assert_allclose(LOSS(**arrays, config=config)[0].total, apart, rtol=1e-5)


@BOTH
def test_jit_equals_eager(config):
    arrays = _inputs()
    eager, jitted = allocator_loss(**arrays, config=config), LOSS(**arrays, config=config)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), eager, jitted)


@BOTH
def test_padding_holds_anything(config):
    arrays = _inputs()
    clean, poisoned = LOSS(**arrays, config=config), LOSS(**_poisoned(arrays), config=config)
    jax.tree.map(np.testing.assert_array_equal, clean, poisoned)
    gradients = _gradients(_poisoned(arrays), config)
    expected = _gradients(arrays, config)
    for name in DIFFERENTIATED:
        np.testing.assert_array_equal(gradients[name], expected[name], err_msg=name)
        assert np.any(gradients[name] != 0.0), name
        assert np.all(np.asarray(gradients[name][3]) == 0.0), name


def test_masked_allocations_do_not_count():
    arrays = _inputs()
    poisoned = arrays | {
        name: arrays[name].at[:, 1].set(jnp.nan)
        for name in ("log_probs", "old_log_probs", "advantages")
    }
    keep = jnp.array([True, False, True])
    allocation_mask = jnp.broadcast_to(keep[None, :], (4, 3))
    loss, metrics = LOSS(**poisoned, config=CONFIGS[0], allocation_mask=allocation_mask)
    subset = arrays | {
        name: arrays[name][:, keep] for name in ("log_probs", "old_log_probs", "advantages")
    }
    expected, _ = LOSS(**subset, config=CONFIGS[0])
    np.testing.assert_allclose(loss.total, expected.total, rtol=1e-5)
    np.testing.assert_allclose(metrics["ratio"].weight, 2 * sum(LENGTHS))


def test_a_prompt_without_an_allocation_that_counts_is_left_out():
    arrays = _inputs() | {"allocation_mask": jnp.ones((4, 3), bool).at[0].set(False)}
    loss, _ = LOSS(**arrays, config=CONFIGS[0])
    np.testing.assert_allclose(loss.weight, 2.0)  # the last one has no units
    np.testing.assert_allclose(loss.total, sum(_by_hand(arrays, CONFIGS[0])[1:]), rtol=1e-5)
    gradients = _gradients(arrays, CONFIGS[0])
    for name in DIFFERENTIATED:
        np.testing.assert_array_equal(gradients[name][0], 0.0, err_msg=name)


@BOTH
def test_micro_batches_add_up_in_value_and_gradient(config):
    arrays = _inputs()

    def part(params, start, stop):
        cut = {name: array[start:stop] for name, array in (arrays | params).items()}
        loss, metrics = allocator_loss(**cut, config=config)
        return loss.total, (loss, metrics)

    whole, metrics = LOSS(**arrays, config=config)
    params = {name: arrays[name] for name in DIFFERENTIATED}
    gradient = jax.jit(jax.grad(part, has_aux=True), static_argnums=(1, 2))
    # one and two prompts with units
    first_gradient, (first, first_metrics) = gradient(params, 0, 1)
    second_gradient, (second, second_metrics) = gradient(params, 1, 4)
    weight = (first + second).weight
    np.testing.assert_allclose((first + second).mean(), whole.mean(), rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        add_sums(first_metrics, second_metrics),
        metrics,
    )
    summed = jax.tree.map(lambda a, b: (a + b) / weight, first_gradient, second_gradient)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        summed,
        _gradients(arrays, config),
    )


def test_ratio_one_gives_the_policy_gradient():
    arrays = _inputs()
    arrays |= {"old_log_probs": arrays["log_probs"], "unit_mask": jnp.ones((4, 5), bool)}
    gradient = _gradients(arrays, AllocatorLossConfig())["log_probs"]
    # -A / (B·M·K)
    expected = -arrays["advantages"] / 60 * jnp.ones((4, 3, 5))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_sharded_equals_one_device():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    arrays = _inputs()
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    sharded = jax.device_put(arrays, sharding)
    expected = LOSS(**arrays, config=CONFIGS[0])
    result = LOSS(**sharded, config=CONFIGS[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, result)


def test_advantages_without_an_axis_for_units_are_refused():
    """[B, M] of as many allocations as units would broadcast, each to the unit of its number."""
    arrays = {name: x[:3] for name, x in _inputs().items()}  # B = M = 3
    arrays |= {name: arrays[name][..., :3] for name in ("log_probs", "old_log_probs")}
    arrays |= {name: arrays[name][:, :3] for name in DIFFERENTIATED[1:] + ("unit_mask",)}
    arrays["advantages"] = arrays["advantages"][..., 0]
    with pytest.raises(ValueError, match=r"advantages \(3, 3\) must be \[B, M, K\]"):
        allocator_loss(**arrays)
