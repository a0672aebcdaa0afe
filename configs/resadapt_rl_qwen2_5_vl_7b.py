"""ResAdapt-RL at the paper's size: allocator and Qwen2.5-VL-7B trained together.

    python train.py --config configs/resadapt_rl_qwen2_5_vl_7b.py --data.files train.parquet \\
        --backbone path/to/Qwen2.5-VL-7B-Instruct \\
        --encoder.directory path/to/SmolVLM2-256M-Video-Instruct

As `resadapt_qwen2_5_vl_7b.py`, and the backbone learns from the tokens of its answers at 1e-6 by
the allocator's advantages (``--backbone-training.advantages released`` is plain GRPO). Its
parameters and moments stay float32, split over all devices; it computes in bfloat16 and keeps one
input a layer for the backward pass.

To expect with the embedded world (``--config-arg embedded``): compiled for 32 H100 (`make
test-aot`), a rollout takes 27 GB a device, an update 18 GB. 16 TPU v5p (`make test-aot-tpu`) want
``--mesh.fsdp 16 --backbone-training.update.micro-batches 4`` and take 34 GB. By arithmetic, 1.6
EFLOP a step at the start, when scales are uniform: at 40 % of the peak of 32 H100 two minutes, and
26 hours in all. No device has run it.
"""

from dataclasses import replace
from pathlib import Path

from resadapt_jax.config import load_config
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig
from resadapt_jax.training.mesh import MeshConfig
from resadapt_jax.training.update import UpdateConfig


def get_config(arg: str = "") -> TrainConfig:
    """The paper's joint run; ``arg`` is empty for files, or ``embedded``."""
    paper = load_config(Path(__file__).with_name("resadapt_qwen2_5_vl_7b.py"), arg)
    return replace(
        paper,
        output_dir="runs/resadapt_rl_qwen2_5_vl_7b",
        mesh=MeshConfig(data=1, fsdp=32),
        backbone_training=BackboneTrainingConfig(
            optimizer=replace(paper.optimizer, learning_rate=1e-6),
            update=UpdateConfig(epochs=1, mini_batches=2, micro_batches=2),
        ),
    )
