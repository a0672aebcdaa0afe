"""Trains on questions about videos and images of your own, against the shipped tiny backbone.

    python train.py --config configs/corpus.py --data.files questions.parquet

``--data.files`` takes several files: parquet of the release's schema, jsonl, ArrayRecord or a
folder that tensorflow-datasets prepared. ``--config-arg grpo`` trains the backbone alone by plain
GRPO, no frame larger than 84 x 84. The README's section "Train on your data" goes through both with
clips that it makes itself; on two cores either takes a few minutes.

What a run at the size of the paper needs is in the configs that are named after backbones.
"""

from resadapt_jax.advantages import CapoConfig, GrpoConfig
from resadapt_jax.allocator import AllocatorConfig, ProjectedBounds
from resadapt_jax.data.corpus import CorpusConfig
from resadapt_jax.data.frame_sampling import SamplingConfig
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.operators import SizeLimits
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig
from resadapt_jax.training.loop.run_config import RunConfig
from resadapt_jax.training.optimizer import OptimizerConfig
from resadapt_jax.training.rollout_config import RolloutConfig


def get_config(arg: str = "") -> TrainConfig:
    """A run on files; ``arg`` is empty for CAPO, or ``grpo`` for the backbone alone."""
    if arg not in ("", "grpo"):
        raise ValueError(f"the argument of configs/corpus.py is grpo or none, got {arg!r}")
    shared = {
        "data": CorpusConfig(
            files=("questions.parquet",),
            sampling=SamplingConfig(max_frames=24),
            max_shapes=2,
        ),
        "num_steps": 20,
        "batch_size": 4,
        "rewards": RewardConfig(format_weight=0.0),
        "run": RunConfig(checkpoint_every=10, samples_every=10),
    }
    decoding = DecodingConfig(max_new_tokens=5, temperature=1.0)
    if arg:
        return TrainConfig(
            output_dir="runs/corpus_grpo",
            allocator=None,
            train_allocator=False,
            advantage=GrpoConfig(),
            # At 84 x 84 the shipped backbone reads little of the embedded world's signs.
            limits=SizeLimits(min_pixels=28 * 28, max_pixels=84 * 84),
            rollouts=RolloutConfig(
                num_allocations=1, num_answers=8, token_capacity=108, decoding=decoding
            ),
            backbone_training=BackboneTrainingConfig(
                optimizer=OptimizerConfig(learning_rate=1e-5), advantages="released"
            ),
            **shared,
        )
    return TrainConfig(
        output_dir="runs/corpus",
        allocator=AllocatorConfig(
            width=64,
            num_heads=4,
            head_dim=16,
            pool_width=64,
            head_width=64,
            bounds=ProjectedBounds(lower=0.8, upper=10.0),
        ),
        advantage=CapoConfig(form="released", gamma=1.0, positive_floor=None),
        rollouts=RolloutConfig(token_capacity=128, decoding=decoding),
        **shared,
    )
