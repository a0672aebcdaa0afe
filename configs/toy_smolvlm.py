"""Trains the released allocator on the embedded world, with a SmolVLM2 as its frozen encoder.

    python train.py --config configs/toy_smolvlm.py --encoder.directory DIR

DIR is a SmolVLM2 as Hugging Face publishes it, such as SmolVLM2-256M-Video-Instruct; ``eval.py``
takes the same arguments. ``--encoder.cache-dir DIR`` keeps the features of frames for the next run:
24 frames are 64 tokens of 576 each, 1.8 MB a clip in bfloat16.

This is a run for an accelerator: a step encodes 384 frames of 512 x 512 pixels. It shows how the
parts fit; what the published weights reach with it has not been measured.
"""

from resadapt_jax.advantages import CapoConfig
from resadapt_jax.allocator import AllocatorConfig, SmolVLMEncoderConfig
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.optimizer import OptimizerConfig


def get_config(arg: str = "") -> TrainConfig:
    """The toy run with the paper's encoder, network and learning rate; it takes no argument."""
    if arg:
        raise ValueError(f"configs/toy_smolvlm.py takes no argument, got {arg!r}")
    return TrainConfig(
        output_dir="runs/toy_smolvlm",
        num_steps=160,
        encoder=SmolVLMEncoderConfig(
            directory="SmolVLM2-256M-Video-Instruct", dtype="bfloat16", chunk_frames=64
        ),
        allocator=AllocatorConfig(dtype="bfloat16"),
        advantage=CapoConfig(form="released", gamma=1.0, positive_floor=None),
        optimizer=OptimizerConfig(learning_rate=2e-5),
    )
