"""The paper's configs at 7B, and what their steps are held to.

The programs are the trainer's own, their shapes those of the configs. What a device holds beside a
program's arguments counts: both parts, their moments, the batch, what was drawn and answered.
"""

import math
from dataclasses import replace
from pathlib import Path

import jax
from backbones import QWEN2_5_VL_7B
from jax.sharding import Mesh
from training_step import PROMPT, Program, compile_step, open_run

from resadapt_jax.config import load_config
from resadapt_jax.models.families import family_of
from resadapt_jax.training.checks import memory_of
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.mesh import MeshConfig
from resadapt_jax.training.step import Trainer

CONFIGS = Path(__file__).parents[2] / "configs"
SHAPES = family_of(QWEN2_5_VL_7B).model.param_shapes(QWEN2_5_VL_7B)
NUM_LAYERS = QWEN2_5_VL_7B.vision.depth + QWEN2_5_VL_7B.text.num_hidden_layers
WEIGHTS = 2 * sum(map(math.prod, SHAPES.values()))  # bytes as they compute, in bfloat16


def load(name: str) -> TrainConfig:
    """A config of the repository by its name, with the embedded world's clips."""
    return load_config(CONFIGS / f"{name}.py", "embedded")


def joint(mesh: MeshConfig, micro_batches: int) -> TrainConfig:
    """The joint run on another mesh, its mini-batches cut to one prompt a device at a time."""
    config = load("resadapt_rl_qwen2_5_vl_7b")
    training = config.backbone_training
    update = replace(training.update, micro_batches=micro_batches)
    return replace(config, mesh=mesh, backbone_training=replace(training, update=update))


def compiled(
    config: TrainConfig, mesh: Mesh, only: tuple[str, ...] = ()
) -> tuple[Trainer, dict[str, Program]]:
    """The config's step on a mesh: the trainer, and what its programs take, by name."""
    jax.clear_caches()  # what was traced for other devices
    run = open_run(config, QWEN2_5_VL_7B, mesh)
    print(f"\n{config.output_dir}, {mesh.size} x {mesh.devices.flat[0].device_kind}, {config.mesh}")
    programs = compile_step(run, only)
    # One resizes. The others attend, in each layer of rollouts, and in the two scans of an update:
    # forward, forward again for the gradient, of queries, of keys and values.
    kernels = {"backbone_step.answer": 1 + NUM_LAYERS, "backbone_step.gradients_of_pass": 1 + 2 * 4}
    assert all(programs[name].kernels == kernels[name] for name in kernels.keys() & programs.keys())
    # Half a gigabyte a layer, a whole one each for the embedding and the head.
    assert 0 < max(program.whole for program in programs.values()) < WEIGHTS / 4
    return run.trainer, programs


def most(programs: dict[str, Program]) -> int:
    """Bytes of a device, at a step's worst."""
    return max(program.total for program in programs.values())


def check_estimate(trainer: Trainer, programs: dict[str, Program], update_within: float) -> None:
    """Holds what `checks.check_memory` goes by before anything compiles to what XLA reports."""
    estimate = memory_of(trainer, PROMPT)
    resting = estimate.total - max(estimate.update, estimate.rollout)
    parts = {
        "backbone_step.answer": (estimate.rollout, 1.75),
        "backbone_step.gradients_of_pass": (estimate.update, update_within),
    }
    for name, (part, within) in parts.items():
        if name in programs:
            wanted, used = resting + part, programs[name].total
            print(f"{name}: estimated {wanted / 1e9:.1f} GB, it is {used / 1e9:.1f}")
            assert wanted / within < used < wanted * within
