"""Values that no run can use are refused by name when a config is made."""

import math

import pytest

from resadapt_jax.training.config import EvaluationConfig, TrainConfig
from resadapt_jax.training.optimizer import OptimizerConfig


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("num_clips", [0, -1], [1]),
        ("batch_size", [0], [1]),
        ("fixed_retentions", [(0.5, 0.0), (1.5,), (math.nan,)], [(1.0, 0.1), ()]),
        ("drop_retentions", [(-0.5,), (1.1,)], [(1.0,), ()]),
        ("budgets", [(0.0,), (2.0,)], [(1.0,), ()]),
    ],
)
def test_evaluation(name, bad, good):
    check(EvaluationConfig, name, bad, good)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("learning_rate", [0.0, -1e-3, math.nan], [1e-9]),
        ("warmup_steps", [-1], [0]),
        ("final_fraction", [-0.1, 1.1, math.nan], [0.0, 1.0]),
        ("weight_decay", [-0.1, math.nan], [0.0]),
        ("max_grad_norm", [0.0, -1.0, math.nan], [1e-3, math.inf]),
        ("beta2", [1.0, -0.1, math.nan], [0.0, 0.999]),
    ],
)
def test_optimizer(name, bad, good):
    check(OptimizerConfig, name, bad, good)


def check(config, name, bad, good):
    for value in bad:
        with pytest.raises(ValueError, match=f"^{name} must .*, got "):
            config(**{name: value})
    for value in good:
        assert getattr(config(**{name: value}), name) == value


def test_a_run_needs_a_folder():
    with pytest.raises(ValueError, match="output_dir must not be empty"):
        TrainConfig(output_dir="")
