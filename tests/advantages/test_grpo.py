"""GRPO: hand-computed groups."""

import jax.numpy as jnp
import numpy as np

from resadapt_jax.advantages import GroupNorm, GrpoConfig, grpo, make_group
from tests.advantages.worked_group import SCALES, UNIT_MASK, group_of


def test_grpo_over_all_answers_of_a_prompt():
    # mean .25; deviations .75, -.25, -.25, -.25; squares sum to .75. Unbiased std √(.75/3) = .5,
    # so 1.5 and -.5. (The population std √(.75/4) would give 1.732, a per-row group .707.)
    result = grpo(group_of([[1.0, 0.0], [0.0, 0.0]], SCALES[:2]))
    np.testing.assert_allclose(result.per_answer, [[1.5, -0.5], [-0.5, -0.5]], atol=1e-5)
    np.testing.assert_allclose(result.values, [0.5, -0.5], atol=1e-5)


def test_grpo_over_the_answers_of_one_allocation():
    # Row [1, 0]: mean .5, unbiased std √(.5/1) = .70711, so ±.70711. Row [0, 0]: a tie.
    group = group_of([[1.0, 0.0], [0.0, 0.0]], SCALES[:2])
    result = grpo(group, GrpoConfig(compare="allocation"))
    np.testing.assert_allclose(result.per_answer, [[0.70711, -0.70711], [0.0, 0.0]], atol=1e-5)


def test_dr_grpo_only_centres():
    # mean 1/4: .75 and -.25, whatever their spread.
    group = group_of([[1.0, 0.0], [0.0, 0.0]], SCALES[:2])
    result = grpo(group, GrpoConfig(norm=GroupNorm(divide_by_std=False)))
    np.testing.assert_allclose(result.per_answer, [[0.75, -0.25], [-0.25, -0.25]], atol=1e-6)


def test_grpo_sees_the_whole_reward_and_no_cost():
    parts = {"accuracy": jnp.ones((4, 1)), "format": jnp.array([[0.0], [1.0], [0.0], [1.0]])}
    group = make_group(parts, SCALES, UNIT_MASK, s_min=0.2, s_max=1.8)
    result = grpo(group, GrpoConfig(norm=GroupNorm(unbiased=False)))
    np.testing.assert_allclose(result.values, [-0.999998, 0.999998] * 2, atol=1e-6)
