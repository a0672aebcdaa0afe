"""What a run of ``train.py`` and the ``eval.py`` after it are told."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from resadapt_jax.advantages import AdvantageConfig, CapoConfig, GrpoConfig
from resadapt_jax.allocator import (
    AllocatorConfig,
    FrozenEncoder,
    ScaleRange,
    SmolVLMEncoderConfig,
    ThumbnailConfig,
)
from resadapt_jax.data.corpus import CorpusConfig
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.errors import UserError
from resadapt_jax.losses import AllocatorLossConfig, BackboneLossConfig
from resadapt_jax.models.compute import Remat
from resadapt_jax.models.families import ModelConfig
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.operators import MAX_SCALE, SizeLimits
from resadapt_jax.rewards import SUCCESS_THRESHOLD, RewardConfig
from resadapt_jax.training.loop.run_config import RunConfig
from resadapt_jax.training.mesh import MeshConfig
from resadapt_jax.training.optimizer import OptimizerConfig
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.update import UpdateConfig

Instruction = Literal["none", "direct", "reasoning"]

MAY_DIFFER_ON_RESUME = (
    "output_dir",
    "run",
    "mesh",
    "evaluation",
    "encoder.directory",  # its fingerprint may not
    "encoder.cache_dir",
    "encoder.chunk_frames",  # bounds the memory alone
    "data.media_root",
    "data.frames_cache",
    "data.survey_cache",
    "data.workers",
    "data.threads",
    "data.ahead",
    "rewards.num_workers",
)
"""Fields of a run's config that may differ when it goes on or is evaluated: what is learnt does not
depend on them, but for the order of sums on another mesh."""


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
    compilation for every size of its largest frame and number of pairs shown, and what a request
    leaves unused of the next one costs time."""
    seed: int = 2
    """Seed of the clips; another one than training's."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        for name in ("num_clips", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.capacities or not all(share > 0 for share in self.capacities):
            raise ValueError(f"capacities must be positive, got {self.capacities}")
        for name in ("fixed_retentions", "drop_retentions", "budgets"):
            if not all(0 < share <= 1 for share in getattr(self, name)):
                raise ValueError(f"{name} must be within (0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class BackboneTrainingConfig:
    """Training of the backbone beside the allocator, from the tokens of its own answers."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1e-6))
    """Its own, at a learning rate far below the allocator's."""
    loss: BackboneLossConfig = field(default_factory=BackboneLossConfig)
    """The objective per token."""
    update: UpdateConfig = field(default_factory=lambda: UpdateConfig(epochs=1))
    """How rollouts become updates."""
    advantages: Literal["paper", "released"] = "paper"
    """The allocator's own, before they are averaged over answers (paper); or GRPO over the total
    reward of all answers to a prompt (released)."""
    ispred: bool = False
    """Weigh advantages by the ratio of an allocation's probabilities after and before the
    allocator's update."""
    grpo: GrpoConfig = GrpoConfig()
    """How ``advantages="released"`` compares answers; Dr.GRPO only centres them."""
    informative_prompts_only: bool = False
    """Leave out prompts whose answers are all as right, as DAPO's dynamic sampling does."""
    oversampling: int = 1
    """Prompts that are answered for each one that is learnt from: of this many in turn, the first
    whose answers differ in accuracy. What DAPO draws until a batch is full is drawn at once."""
    old_log_probs: Literal["rollout", "recomputed"] = "rollout"
    """As recorded when drawn, or from a pass of the training program over the answers, which
    rounds as the update does."""
    remat: Remat = Remat.LAYERS
    """What the forward pass of an update keeps of each layer."""
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are, as shell patterns of their paths, for example visual.*"""

    def __post_init__(self) -> None:
        choices = {"advantages": ("paper", "released"), "old_log_probs": ("rollout", "recomputed")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.oversampling < 1:
            raise ValueError(f"oversampling must be at least 1, got {self.oversampling}")

    @property
    def parts(self) -> int:
        """A batch of prompts is this many times what an update has on the devices at once."""
        return self.oversampling * self.update.mini_batches * self.update.micro_batches


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training of an allocator, of the backbone, or of both, on generated clips or on files."""

    output_dir: str = "runs/toy"
    """Where config, logs, checkpoints, the trained allocator and the evaluation go."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """How the run is split over devices."""
    backbone: str = ""
    """Hugging Face directory of the backbone; the shipped tiny one if empty."""
    backbone_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the backbone computes in; where it is trained, its parameters stay float32."""
    backbone_training: BackboneTrainingConfig | None = None
    """How the backbone is trained too; None leaves it as it is."""
    data: ToyWorldConfig | CorpusConfig = field(default_factory=ToyWorldConfig)
    """The clips to train on: of the embedded world, or of files."""
    instruction: Instruction = "none"
    """What is added to the questions of files: nothing, how to answer directly, or to think first
    (`rewards.instruction`)."""
    num_steps: int = 120
    """Steps of rollout and update."""
    batch_size: int = 16
    """Prompts per step (B)."""
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
    allocator: AllocatorConfig | None = field(default_factory=AllocatorConfig)
    """The allocator's network; the widths of its inputs are those of the encoder's features. None
    shows frames at their own size, or what of it ``rollouts.token_capacity`` has room for
    (``fitted_share`` tells how often it had not), to train a backbone alone."""
    train_allocator: bool = True
    """False keeps the allocator of ``start_allocator`` as it is."""
    start_allocator: str = ""
    """Directory of a trained allocator to start from, with the words of its thumbnail encoder if
    it has one; a random one if empty."""
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: RewardConfig = RewardConfig(format_weight=0.0)
    """How answers are graded; without a prompt that asks for a format there is none to reward."""
    success_threshold: float = SUCCESS_THRESHOLD
    """An accuracy above it counts as a right answer."""
    advantage: AdvantageConfig = field(default_factory=CapoConfig)
    """How answers and costs become advantages."""
    estimator: str = ""
    """Recorded: the name of the function handed to ``train`` that stands in for ``advantage``."""
    engine: str = ""
    """Recorded: the name of the engine handed to ``train`` that answers for the backbone."""
    loss: AllocatorLossConfig = field(default_factory=AllocatorLossConfig)
    """The allocator's objective."""
    update: UpdateConfig = field(default_factory=UpdateConfig)
    """How rollouts become updates of the allocator."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("output_dir must not be empty")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        longest = self.rollouts.decoding.max_new_tokens
        if self.rewards.overlong_buffer > longest:
            raise ValueError(
                f"rewards.overlong_buffer is {self.rewards.overlong_buffer}, but an answer has at "
                f"most {longest} tokens (rollouts.decoding.max_new_tokens)"
            )
        self._check_groups()
        self._check_backbone_training()
        if self.allocator is None and self.train_allocator:
            raise ValueError("train_allocator needs an allocator")
        if self.allocator is not None and not (self.train_allocator or self.start_allocator):
            raise ValueError("start_allocator must name the allocator that is not trained")
        if not self.train_allocator and self.backbone_training is None:
            raise ValueError("nothing to train: train_allocator is off, backbone_training is None")
        if self.allocator is None and self.scale_range.s_max < 1:
            raise ValueError("without an allocator, scale_range must reach scale 1")
        if self.scale_range.s_max > MAX_SCALE:
            raise ValueError(
                f"scale_range.s_max is {self.scale_range.s_max}, but no frame is enlarged more "
                f"than {MAX_SCALE} times"
            )

    def _check_groups(self) -> None:
        """What is compared with nothing earns nothing."""
        rollouts = self.rollouts
        if self.train_allocator and rollouts.num_allocations < 2:
            raise ValueError(
                "rollouts.num_allocations is 1: an allocator learns from what differs between the "
                "allocations of a prompt; draw more"
            )
        joint = self.backbone_training
        comparisons = {
            "advantage": self.advantage,
            "backbone_training.grpo": None if joint is None else joint.grpo,
        }
        for name, grpo in comparisons.items():
            alone = isinstance(grpo, GrpoConfig) and grpo.compare == "allocation"
            if alone and grpo is self.advantage and self.train_allocator:
                raise ValueError(
                    f'{name}.compare is "allocation", which compares the answers to an allocation '
                    "among themselves: an allocator learns nothing from that"
                )
            if alone and rollouts.num_answers < 2:
                raise ValueError(
                    f'{name}.compare is "allocation", which compares the answers to an allocation, '
                    "but rollouts.num_answers is 1"
                )

    def _check_backbone_training(self) -> None:
        joint, decoding = self.backbone_training, self.rollouts.decoding
        if joint is None:
            return
        if not decoding.temperature:
            raise ValueError(
                "rollouts.decoding.temperature is 0, but a backbone is trained on answers that are "
                "drawn from it; 1 draws from its own distribution"
            )
        filtered = decoding.top_k is not None or decoding.top_p < 1
        if joint.old_log_probs == "rollout" and filtered:
            raise ValueError(
                "rollouts.decoding.top_k and top_p draw from another distribution than the one "
                'that is trained: set backbone_training.old_log_probs to "recomputed"'
            )
        if joint.ispred and not self.train_allocator:
            raise ValueError("backbone_training.ispred weighs by the allocator's update: train it")

    @property
    def trained_allocator(self) -> str:
        """Directory of the allocator once the run is over; empty where there is none."""
        if self.allocator is None:
            return ""
        return (
            str(Path(self.output_dir) / "allocator")
            if self.train_allocator
            else self.start_allocator
        )

    @property
    def trained_backbone(self) -> str:
        """Directory of the backbone once the run is over; empty for the shipped one."""
        if self.backbone_training is None:
            return self.backbone
        return str(Path(self.output_dir) / "backbone")


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
    chosen, network = config.encoder, config.allocator
    if isinstance(chosen, SmolVLMEncoderConfig):
        chosen = replace(chosen, fingerprint=encoder.fingerprint)
    if network is not None:
        widths = {"frame_width": encoder.frame_width, "text_width": encoder.text_width}
        network = replace(network, **widths)
    return replace(config, encoder=chosen, allocator=network)
