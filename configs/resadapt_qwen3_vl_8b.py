"""Trains the allocator of ResAdapt for Qwen3-VL-8B, the backbone frozen.

    python train.py --config configs/resadapt_qwen3_vl_8b.py --data.files train.parquet \\
        --backbone path/to/Qwen3-VL-8B-Instruct \\
        --encoder.directory path/to/SmolVLM2-256M-Video-Instruct

As `resadapt_qwen2_5_vl_7b.py`; a merged token is 32 pixels wide, and pairs have their timestamps in
the text. Memory and time are about those of that run; nothing of this model's size has been
compiled.
"""

from dataclasses import replace
from pathlib import Path

from resadapt_jax.config import load_config
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.operators import SizeLimits
from resadapt_jax.training.config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    """The allocator run for Qwen3-VL; ``arg`` is empty for files, or ``embedded``."""
    paper = load_config(Path(__file__).with_name("resadapt_qwen2_5_vl_7b.py"), arg)
    data = paper.data
    if isinstance(data, ToyWorldConfig):
        data = replace(data, size=352)
    return replace(
        paper,
        output_dir="runs/resadapt_qwen3_vl_8b",
        backbone="Qwen3-VL-8B-Instruct",
        data=data,
        convention=Convention.HF_5,
        limits=SizeLimits.of_tower(16, 2),
    )
