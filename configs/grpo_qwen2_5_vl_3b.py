"""Plain GRPO of Qwen2.5-VL-3B on whole frames, without an allocator: the baseline to compare with.

    python train.py --config configs/grpo_qwen2_5_vl_3b.py --data.files train.parquet \\
        --backbone path/to/Qwen2.5-VL-3B-Instruct

Sixteen answers to each of 128 prompts of 32 frames, every frame at its own size, of 121 tokens at
most (prompts of more than one such video are fitted to the tokens of one); the vision tower stays
as it is. Of N answers given the same pixels and M allocations alike, the config takes the latter,
which are answered two at a time. ``--config-arg embedded`` takes clips of the embedded world.

To expect with those, by estimate and arithmetic, as no device has run it: 25 GB a device on 8 H100;
0.13 EFLOP a step, which at 40 % of the devices' peak is 42 s.
"""

from resadapt_jax.advantages import GrpoConfig
from resadapt_jax.allocator import ScaleRange
from resadapt_jax.data.corpus import CorpusConfig
from resadapt_jax.data.frame_sampling import SamplingConfig
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.losses import BackboneLossConfig
from resadapt_jax.operators import SizeLimits
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig
from resadapt_jax.training.loop.run_config import RunConfig
from resadapt_jax.training.mesh import MeshConfig
from resadapt_jax.training.optimizer import OptimizerConfig
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.update import UpdateConfig


def get_config(arg: str = "") -> TrainConfig:
    """GRPO of a 3B; ``arg`` is empty for files, or ``embedded``."""
    if arg not in ("", "embedded"):
        raise ValueError(f"the argument of this config is embedded or none, got {arg!r}")
    files = CorpusConfig(
        files=("train.parquet",),
        sampling=SamplingConfig(max_frames=32),
        workers=8,
        survey_cache="runs/survey",
    )
    embedded = ToyWorldConfig(num_pairs=16, size=308, num_signs=6)
    return TrainConfig(
        output_dir="runs/grpo_qwen2_5_vl_3b",
        mesh=MeshConfig(fsdp=8),
        backbone="Qwen2.5-VL-3B-Instruct",
        backbone_dtype="bfloat16",
        data=embedded if arg else files,
        instruction="none" if arg else "reasoning",
        rewards=RewardConfig(format_weight=0.0 if arg else 0.2, num_workers=8),
        num_steps=729,
        batch_size=128,
        # Frames keep their size; so few sizes are encoded once for all answers to a prompt.
        scale_range=ScaleRange(s_min=0.9, s_max=1.0),
        limits=SizeLimits(max_pixels=308 * 308),
        allocator=None,
        train_allocator=False,
        rollouts=RolloutConfig(
            num_allocations=16,
            allocations_per_pass=2,
            token_capacity=1936,  # 16 pairs of 11 x 11
            decoding=DecodingConfig(max_new_tokens=256, temperature=1.0),
        ),
        advantage=GrpoConfig(),
        backbone_training=BackboneTrainingConfig(
            optimizer=OptimizerConfig(learning_rate=1e-6, final_fraction=1.0, beta2=0.999),
            loss=BackboneLossConfig(),
            update=UpdateConfig(epochs=1, mini_batches=2, micro_batches=2),
            frozen=("visual.*",),
        ),
        run=RunConfig(checkpoint_every=10, samples_every=10),
    )
