"""Which prompts of a batch are learnt from."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.advantages import CapoConfig, GrpoConfig, capo, grpo
from resadapt_jax.allocator import ScaleRange
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.credit import credit_answers, judge, keep_informative
from resadapt_jax.training.mesh import MeshConfig, batch_sharding, build_mesh, put_batch


@pytest.mark.parametrize("data", [1, 2])
def test_of_each_few_prompts_the_first_informative_one_is_kept(data):
    """Three and three on a mesh, whole or in halves; where none is informative, the first valid."""
    mesh = build_mesh(MeshConfig(data=data))
    informative = np.array([0, 0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1], bool)
    valid = np.array([1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1], bool)
    rows = {"place": np.arange(12), "pair": np.arange(24).reshape(12, 2)}
    with jax.set_mesh(mesh):
        put = (put_batch(x, mesh) for x in (rows, informative, valid))
        kept = keep_informative(*put, oversampling=3)
    np.testing.assert_array_equal(kept["place"], [2, 4, 7, 9])
    np.testing.assert_array_equal(kept["pair"], [[4, 5], [8, 9], [14, 15], [18, 19]])
    assert kept["pair"].sharding.is_equivalent_to(batch_sharding(mesh), 2)


def test_a_prompt_of_text_costs_nothing_and_a_row_that_does_not_count_is_not_measured():
    """A clip at 1.0 and 1.4 of [.2, 1.8], c = .5 and .75; a text; a row that could not be read."""
    accuracy = jnp.array([[[1.0], [0.0]], [[1.0], [1.0]], [[jnp.nan], [jnp.nan]]])
    _, earned, metrics = judge(
        {"accuracy": accuracy},
        jnp.array([[[1.0], [1.4]]] * 3),
        jnp.array([[True], [False], [True]]),
        jnp.array([True, True, False]),
        scale_range=ScaleRange(s_min=0.2, s_max=1.8),
        rewards=RewardConfig(format_weight=0.0),
        success_threshold=0.35,
        estimator=partial(capo, config=CapoConfig()),
    )
    np.testing.assert_allclose(metrics["cost"], 0.625)
    np.testing.assert_allclose(metrics["pivot"], 0.5 * 0.625 + 0.5 * 0.4)
    np.testing.assert_allclose(metrics["reward"], 0.75)
    np.testing.assert_allclose(metrics["reward_spread"], 0.25)
    np.testing.assert_array_equal(earned.values[2], 0.0)


def judged(accuracy, scales, estimator, **changes):
    """`judge` of prompts that all count, with one unit each; scales from .2 to 1.8."""
    arguments = {
        "scale_range": ScaleRange(s_min=0.2, s_max=1.8),
        "rewards": RewardConfig(format_weight=0.2),
        "success_threshold": 0.35,
    } | changes
    count = len(scales)
    parts = {"accuracy": accuracy, "format": jnp.zeros_like(accuracy)} | arguments.pop("parts", {})
    units, valid = jnp.ones((count, 1), bool), jnp.ones(count, bool)
    return judge(parts, scales, units, valid, estimator=estimator, **arguments)


def test_the_threshold_of_success_is_the_configs():
    for threshold, success in ((0.8, False), (0.6, True)):
        group, _, _ = judged(
            *(jnp.array([[[0.7]]]), jnp.ones((1, 1, 1)), partial(capo, config=CapoConfig())),
            success_threshold=threshold,
        )
        assert group.success.item() is success


def test_what_the_backbone_learns_from():
    """Answers that differ in accuracy; in format alone; in one that was not graded alone."""
    accuracy = jnp.array([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0]] * 2, [[1.0, 1.0], [1.0, 0.0]]])
    form = jnp.zeros((3, 2, 2)).at[1, 0, 0].set(1.0)
    decided = jnp.ones((3, 2, 2), bool).at[2, 1, 1].set(False)
    scales = jnp.array([[[0.4], [1.2]]] * 3)
    estimator = partial(capo, config=CapoConfig())
    group, earned, _ = judged(accuracy, scales, estimator, parts={"format": form}, decided=decided)

    def credit(weights=None, plain=None, informative_only=False):
        return credit_answers(
            group, earned, weights, plain=plain, informative_only=informative_only
        )

    values, counted, differ = credit()
    np.testing.assert_array_equal(values, earned.per_answer)
    np.testing.assert_array_equal(counted, decided)
    np.testing.assert_array_equal(differ, [True, False, False])
    _, counted, _ = credit(informative_only=True)
    np.testing.assert_array_equal(counted, decided & jnp.array([True, False, False])[:, None, None])
    weighted, _, _ = credit(weights=jnp.array([[2.0, 0.5]] * 3))
    np.testing.assert_allclose(weighted, earned.per_answer * jnp.array([[[2.0], [0.5]]]), rtol=1e-6)
    plain, _, _ = credit(plain=GrpoConfig())
    np.testing.assert_allclose(plain, grpo(group, GrpoConfig()).per_answer, rtol=1e-6)
    assert jnp.abs(plain - earned.per_answer).max() > 0.1


def test_answers_that_could_not_be_graded_are_in_no_group():
    """Of 1, 0 and one that is not known, twice: z of {1, 0}, and nothing to learn from the last."""
    judged = [
        judge(
            {"accuracy": jnp.array([[[1.0], [0.0], [unknown]]])},
            jnp.array([[[1.0], [1.0], [1.0]]]),
            jnp.array([[True]]),
            jnp.array([True]),
            scale_range=ScaleRange(s_min=0.2, s_max=1.8),
            rewards=RewardConfig(format_weight=0.0),
            success_threshold=0.35,
            estimator=partial(grpo, config=GrpoConfig()),
            decided=jnp.array([[[True], [True], [False]]]),
        )
        for unknown in (0.0, 1.0)
    ]
    for group, earned, metrics in judged:
        np.testing.assert_array_equal(group.mask.ravel(), [True, True, False])
        assert earned.values[0, 0] == -earned.values[0, 1] > 0.0 == earned.values[0, 2]
        np.testing.assert_allclose(metrics["ungraded_share"], 1 / 3)
        for name, found in {"reward": 0.5, "reward_spread": 0.5, "cost": 0.5}.items():
            np.testing.assert_allclose(metrics[name], found, rtol=1e-6)
    np.testing.assert_array_equal(judged[0][1].values, judged[1][1].values)
