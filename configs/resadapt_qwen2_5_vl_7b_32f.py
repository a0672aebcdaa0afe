"""`resadapt_qwen2_5_vl_7b.py` on clips of 32 frames, a quarter of the visual tokens.

    python train.py --config configs/resadapt_qwen2_5_vl_7b_32f.py --data.files train.parquet \\
        --backbone path/to/Qwen2.5-VL-7B-Instruct \\
        --encoder.directory path/to/SmolVLM2-256M-Video-Instruct

The authors' own runs at 32 frames draw scales up to 2.0 and train at 5e-5. It takes the argument of
`resadapt_qwen2_5_vl_7b.py`.

To expect with the embedded world, by estimate and arithmetic, as no device has run it: 19 GB a
device on 8 H100, up to twice that where XLA keeps more of the rollout; 0.14 EFLOP a step at the
start, which at 40 % of the devices' peak is 43 s. Compiled for 8 TPU v5e (`make test-aot-tpu`), a
step of 16 prompts takes 6 GB of a device with ``--mesh.fsdp 2 --mesh.tensor 4 --batch-size 16``.
"""

from dataclasses import replace
from pathlib import Path

from resadapt_jax.allocator import ScaleRange
from resadapt_jax.config import load_config
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.training.config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    """The allocator run at 32 frames; ``arg`` is empty for files, or ``embedded``."""
    paper = load_config(Path(__file__).with_name("resadapt_qwen2_5_vl_7b.py"), arg)
    data = paper.data
    if isinstance(data, ToyWorldConfig):
        data = replace(data, num_pairs=16)
    else:
        data = replace(data, sampling=replace(data.sampling, max_frames=32))
    return replace(
        paper,
        output_dir="runs/resadapt_qwen2_5_vl_7b_32f",
        data=data,
        scale_range=ScaleRange(s_min=0.2, s_max=2.0),
        rollouts=replace(paper.rollouts, token_capacity=4096),
        optimizer=replace(paper.optimizer, learning_rate=5e-5),
    )
