"""Configs of runs: values that none can use are refused by name; a union's member is chosen."""

import math
from pathlib import Path

import pytest

from resadapt_jax.allocator import LogisticNormalBounds, ProjectedBounds
from resadapt_jax.config import from_json, parse_config, to_json
from resadapt_jax.errors import UserError
from resadapt_jax.training.config import EvaluationConfig, TrainConfig
from resadapt_jax.training.optimizer import OptimizerConfig

ROOT = Path(__file__).resolve().parents[2]


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


def test_the_toys_policy_is_chosen_by_the_argument():
    toy = ("--config", str(ROOT / "configs/toy.py"))
    assert isinstance(parse_config(toy).allocator.bounds, ProjectedBounds)
    chosen = (*toy, "--config-arg", "logistic_normal", "--allocator.bounds.start-sigma", "0.5")
    config = parse_config(chosen)
    assert config.allocator.bounds == LogisticNormalBounds(start_sigma=0.5)
    assert from_json(to_json(config), TrainConfig) == config
    assert config.output_dir != parse_config(toy).output_dir
    with pytest.raises(UserError, match="is logistic_normal or none, got 'gamma'"):
        parse_config((*toy, "--config-arg", "gamma"))
