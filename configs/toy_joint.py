"""Trains the allocator and the backbone together (ResAdapt-RL) on the embedded world.

    python train.py --config configs/toy_joint.py
    python eval.py --config configs/toy_joint.py

The clips' frames are larger than those that the shipped backbone was made with, so that it too has
something to learn. Answers are sampled, or it would have nothing to choose from. On eight devices,
for example: ``--mesh.data 2 --mesh.fsdp 2 --mesh.tensor 2``.
"""

from dataclasses import replace
from pathlib import Path

from resadapt_jax.config import load_config
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig
from resadapt_jax.training.optimizer import OptimizerConfig
from resadapt_jax.training.rollout_config import RolloutConfig


def get_config(arg: str = "") -> TrainConfig:
    """The toy run with the backbone trained beside the allocator; ``arg`` is the toy run's."""
    return replace(
        load_config(Path(__file__).with_name("toy.py"), arg),
        output_dir=f"runs/toy_joint_{arg}" if arg else "runs/toy_joint",
        data=ToyWorldConfig(size=140, num_pairs=8),
        rollouts=RolloutConfig(decoding=DecodingConfig(temperature=1.0)),
        backbone_training=BackboneTrainingConfig(optimizer=OptimizerConfig(learning_rate=1e-4)),
    )
