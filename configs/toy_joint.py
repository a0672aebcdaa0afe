"""Trains the allocator and the backbone together (ResAdapt-RL) on the embedded world.

    python train.py --config configs/toy_joint.py
    python eval.py --config configs/toy_joint.py

Answers are sampled, or the backbone would have nothing to choose from. What the run reaches has not
been measured. On eight devices, for example: ``--mesh.data 2 --mesh.fsdp 2 --mesh.tensor 2``.
"""

from resadapt_jax.advantages import CapoConfig
from resadapt_jax.allocator import AllocatorConfig, ProjectedBounds
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig
from resadapt_jax.training.optimizer import OptimizerConfig
from resadapt_jax.training.rollout import RolloutConfig


def get_config(arg: str = "") -> TrainConfig:
    """The toy run with the backbone trained beside the allocator; it takes no argument."""
    if arg:
        raise ValueError(f"configs/toy_joint.py takes no argument, got {arg!r}")
    return TrainConfig(
        output_dir="runs/toy_joint",
        num_steps=160,
        allocator=AllocatorConfig(
            width=64,
            num_heads=4,
            head_dim=16,
            pool_width=64,
            head_width=64,
            bounds=ProjectedBounds(lower=0.8, upper=10.0),  # as in configs/toy.py
        ),
        rollouts=RolloutConfig(decoding=DecodingConfig(temperature=1.0)),
        advantage=CapoConfig(form="released", gamma=1.0, positive_floor=None),
        backbone_training=BackboneTrainingConfig(optimizer=OptimizerConfig(learning_rate=2e-5)),
    )
