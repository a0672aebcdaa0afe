"""Trains the allocator of ResAdapt for Qwen2.5-VL-7B at the paper's size, the backbone frozen.

    python train.py --config configs/resadapt_qwen2_5_vl_7b.py --data.files train.parquet \\
        --backbone path/to/Qwen2.5-VL-7B-Instruct \\
        --encoder.directory path/to/SmolVLM2-256M-Video-Instruct

The same command runs on one host of eight devices or on many. The paper (arXiv 2603.28610) trains
on 32 H100: 128 frames, scales in [0.2, 1.8], 16 allocations of each of 128 prompts with one answer
each, AdamW at 2e-5, one pass over 93,400 prompts. Where it says nothing, two updates a step
and ten updates of warm-up are our choice (the release's script: four, and 30 steps).

Questions ask for reasoning, and the format is rewarded; allocations that ask for more than 12,288
visual tokens are fitted to them. ``--config-arg embedded`` takes clips of the embedded world as
long as the paper's instead, to see that a run works at its size: at 308 x 308 one has 7,744 visual
tokens at scale 1.

To expect with those, by estimate and arithmetic, as no device has run it: 14 GB a device on 32
H100, up to twice that where XLA keeps more of the rollout; 0.40 EFLOP a step at the start, when
scales are uniform, which at 40 % of the devices' peak is 32 s, and 6.5 hours in all.
"""

from resadapt_jax.advantages import CapoConfig
from resadapt_jax.allocator import AllocatorConfig, ScaleRange, SmolVLMEncoderConfig
from resadapt_jax.data.corpus import CorpusConfig
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.operators import SizeLimits
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.loop.run_config import RunConfig
from resadapt_jax.training.mesh import MeshConfig
from resadapt_jax.training.optimizer import OptimizerConfig
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.update import UpdateConfig


def get_config(arg: str = "") -> TrainConfig:
    """The paper's allocator run; ``arg`` is empty for files, or ``embedded``."""
    if arg not in ("", "embedded"):
        raise ValueError(f"the argument of this config is embedded or none, got {arg!r}")
    files = CorpusConfig(files=("train.parquet",), workers=8, survey_cache="runs/survey")
    embedded = ToyWorldConfig(num_pairs=64, size=308, num_signs=6)
    return TrainConfig(
        output_dir="runs/resadapt_qwen2_5_vl_7b",
        mesh=MeshConfig(fsdp=8),
        backbone="Qwen2.5-VL-7B-Instruct",
        backbone_dtype="bfloat16",
        data=embedded if arg else files,
        instruction="none" if arg else "reasoning",
        rewards=RewardConfig(format_weight=0.0 if arg else 0.2, num_workers=8),
        num_steps=729,
        batch_size=128,
        scale_range=ScaleRange(s_min=0.2, s_max=1.8),
        convention=Convention.RESADAPT,
        limits=SizeLimits(),
        encoder=SmolVLMEncoderConfig(
            directory="SmolVLM2-256M-Video-Instruct", dtype="bfloat16", chunk_frames=64
        ),
        allocator=AllocatorConfig(dtype="bfloat16"),
        rollouts=RolloutConfig(
            num_allocations=16,
            token_capacity=12288,
            capacity_shares=(0.125, 0.25, 0.5, 0.75, 1.0),
            allocations_per_pass=1,
            decoding=DecodingConfig(max_new_tokens=256, temperature=1.0, prefill_chunk=2048),
        ),
        advantage=CapoConfig(form="paper"),
        update=UpdateConfig(epochs=1, mini_batches=2),
        optimizer=OptimizerConfig(learning_rate=2e-5, final_fraction=1.0, beta2=0.999),
        run=RunConfig(checkpoint_every=10, samples_every=10),
    )
