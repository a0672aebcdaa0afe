"""Configs of runs: values that none can use are refused by name; a union's member is chosen."""

import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resadapt_jax.allocator import LogisticNormalBounds, ProjectedBounds
from resadapt_jax.config import from_json, load_config, parse_config, to_json
from resadapt_jax.errors import UserError
from resadapt_jax.training.config import EvaluationConfig, TrainConfig
from resadapt_jax.training.optimizer import OptimizerConfig, make_optimizer

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


def test_updates_by_the_optimizer():
    """Gradients of 10 and .5, the first clipped to 1; Adam's β are .9 and .99, decay is .01.

    Four updates: rates .1 and .1·(.1 + .9·(1 + cos π/4)/2) = .0868198. First m̂/√v̂ = 1, so
    2 - .1·(1 + .02) = 1.898; then m̂ = (.09 + .05)/.19 = .736842, v̂ = (.0099 + .0025)/.0199 =
    .623116, m̂/√v̂ = .933447, and 1.898 - .0868198·(.933447 + .01898) = 1.815310.
    """
    config = OptimizerConfig(
        learning_rate=0.1, warmup_steps=0, final_fraction=0.1, weight_decay=0.01, beta2=0.99
    )
    optimizer, value = make_optimizer(config, 4), jnp.float32(2.0)
    state, values = optimizer.init(value), []
    for gradient in (10.0, 0.5):
        change, state = optimizer.update(jnp.float32(gradient), state, value)
        value = optax.apply_updates(value, change)
        values.append(value)
    np.testing.assert_allclose(values, [1.898, 1.815310], rtol=1e-5)
    slow = make_optimizer(OptimizerConfig(warmup_steps=2), 4)
    change, _ = slow.update(jnp.float32(1.0), slow.init(value), value)
    assert change == 0.0  # the rate rises from zero


def check(config, name, bad, good):
    for value in bad:
        with pytest.raises(ValueError, match=f"^{name} must .*, got "):
            config(**{name: value})
    for value in good:
        assert getattr(config(**{name: value}), name) == value


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_config_is_sound_and_says_how_it_is_run(path):
    config = load_config(path)
    assert from_json(to_json(config), type(config)) == config
    assert f"--config configs/{path.name}" in path.read_text()


@pytest.mark.parametrize("name", ["resadapt_rl_qwen2_5_vl_7b", "grpo_qwen2_5_vl_3b"])
def test_paper_sized_batches_can_be_dealt_out_to_32_devices(name):
    config = load_config(ROOT / f"configs/{name}.py")
    update = config.backbone_training.update
    assert config.batch_size % (32 * update.mini_batches * update.micro_batches) == 0


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
