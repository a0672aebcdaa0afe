"""Trains the allocator of ResAdapt for Qwen3-VL-8B, the backbone frozen.

    python train.py --config configs/resadapt_qwen3_vl_8b.py \\
        --backbone path/to/Qwen3-VL-8B-Instruct \\
        --encoder.directory path/to/SmolVLM2-256M-Video-Instruct

As `resadapt_qwen2_5_vl_7b.py`; a merged token is 32 pixels wide, so frames are 352 x 352, and pairs
have their timestamps in the text. Memory and time are about those of that run; nothing of this
model's size has been compiled.
"""

from dataclasses import replace
from pathlib import Path

from resadapt_jax.config import load_config
from resadapt_jax.models.convention import Convention
from resadapt_jax.operators import SizeLimits
from resadapt_jax.training.config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    """The allocator run for Qwen3-VL; it takes no argument."""
    paper = load_config(Path(__file__).with_name("resadapt_qwen2_5_vl_7b.py"), arg)
    return replace(
        paper,
        output_dir="runs/resadapt_qwen3_vl_8b",
        backbone="Qwen3-VL-8B-Instruct",
        world=replace(paper.world, size=352),
        convention=Convention.HF_5,
        limits=SizeLimits.of_tower(16, 2),
    )
