"""What a run of ``train.py`` and the ``eval.py`` after it are told."""

from dataclasses import dataclass, field, replace

from resadapt_jax.advantages import AdvantageConfig, CapoConfig
from resadapt_jax.allocator import (
    AllocatorConfig,
    FrozenEncoder,
    ScaleRange,
    SmolVLMEncoderConfig,
    ThumbnailConfig,
)
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.errors import UserError
from resadapt_jax.losses import AllocatorLossConfig
from resadapt_jax.models.convention import Convention
from resadapt_jax.models.families import ModelConfig
from resadapt_jax.operators import SizeLimits
from resadapt_jax.training.optimizer import OptimizerConfig
from resadapt_jax.training.rollout import RolloutConfig
from resadapt_jax.training.run_config import RunConfig

AFTER_TRAINING = (
    "output_dir",
    "run",
    "evaluation",
    "encoder.directory",  # its fingerprint may not
    "encoder.cache_dir",
    "encoder.chunk_frames",  # bounds the memory alone
)
"""Fields of a run's config that change nothing of what is learnt, so may differ afterwards."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What ``eval.py`` measures after training."""

    num_clips: int = 1024
    """Held-out clips, one question each."""
    batch_size: int = 8
    """Clips per batch."""
    fixed_retentions: tuple[float, ...] = (0.0625, 0.125, 0.1875, 0.25, 0.5625)
    """Retentions at which every pair gets the same scale."""
    drop_retentions: tuple[float, ...] = (0.25, 0.5)
    """Fractions kept by random dropping of tokens and of pairs."""
    budgets: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25)
    """Token budgets for the allocator, as fractions of the native tokens."""
    capacities: tuple[float, ...] = (0.0625, 0.25, 0.5625, 1.0)
    """Static token capacities to compile for, as shares of the native tokens: each costs a
    compilation, and what a request leaves unused of the next one costs time."""
    seed: int = 2
    """Seed of the clips; another one than training's."""

    def __post_init__(self) -> None:
        for name in ("num_clips", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.capacities or not all(share > 0 for share in self.capacities):
            raise ValueError(f"capacities must be positive, got {self.capacities}")
        for name in ("fixed_retentions", "drop_retentions", "budgets"):
            if not all(0 < share <= 1 for share in getattr(self, name)):
                raise ValueError(f"{name} must be within (0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Allocator training on the embedded world."""

    output_dir: str = "runs/toy"
    """Where config, logs, checkpoints, the trained allocator and the evaluation go."""
    backbone: str = ""
    """Hugging Face directory of the frozen backbone; the shipped tiny one if empty."""
    world: ToyWorldConfig = field(default_factory=ToyWorldConfig)
    """The clips to train on."""
    num_steps: int = 120
    """Steps of rollout and update."""
    batch_size: int = 16
    """Prompts per step (B)."""
    updates_per_step: int = 2
    """Updates on the same rollouts."""
    seed: int = 0
    """Of the initial parameters, the actions and the sampled answers."""
    scale_range: ScaleRange = field(default_factory=lambda: ScaleRange(s_min=0.2, s_max=1.0))
    """Scales the policy can draw."""
    convention: Convention = Convention.HF_5
    """How the backbone's positions are numbered, and with them how pairs stand in the prompt."""
    limits: SizeLimits = field(default_factory=lambda: SizeLimits(min_pixels=28 * 28))
    """Legal frame sizes."""
    encoder: ThumbnailConfig | SmolVLMEncoderConfig = field(default_factory=ThumbnailConfig)
    """What the allocator sees frames and question through, frozen."""
    allocator: AllocatorConfig = field(default_factory=AllocatorConfig)
    """The allocator's network; the widths of its inputs are those of the encoder's features."""
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    advantage: AdvantageConfig = field(default_factory=CapoConfig)
    """How answers and costs become advantages."""
    loss: AllocatorLossConfig = field(default_factory=AllocatorLossConfig)
    """The allocator's objective."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("output_dir must not be empty")
        for name in ("num_steps", "batch_size", "updates_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def check_limits(limits: SizeLimits, backbone: ModelConfig) -> None:
    """Refuses legal sizes that are another backbone's.

    Raises:
        UserError: names both values.
    """
    vision = backbone.vision
    if (limits.patch_size, limits.merge_size) != (vision.patch_size, vision.spatial_merge_size):
        raise UserError(
            f"limits have patches of {limits.patch_size} pixels merged by {limits.merge_size}, "
            f"the backbone has {vision.patch_size} and {vision.spatial_merge_size}: set "
            "limits.patch_size and limits.merge_size"
        )


def resolve(config: TrainConfig, encoder: FrozenEncoder) -> TrainConfig:
    """The config with what one part of it takes from another filled in.

    The network gets the widths of the features of ``encoder``, which is the config's, opened; a
    SmolVLM2's fingerprint is recorded.
    """
    widths = {"frame_width": encoder.frame_width, "text_width": encoder.text_width}
    chosen = config.encoder
    if isinstance(chosen, SmolVLMEncoderConfig):
        chosen = replace(chosen, fingerprint=encoder.fingerprint)
    return replace(
        config,
        encoder=chosen,
        allocator=replace(config.allocator, **widths),
    )
