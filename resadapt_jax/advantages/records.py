"""What every estimator of allocation advantages shares: its result and its configuration."""

import dataclasses

from flax import struct

from resadapt_jax.advantages.grpo import GroupNorm
from resadapt_jax.typing import Array, Float


@struct.dataclass
class Advantages:
    """The advantage of each allocation, and the parts it is made of (all float32).

    Every part is averaged over the N answers of its allocation; masked entries are 0.
    """

    values: Float[Array, "*B M"]  # what the allocator's surrogate multiplies
    per_answer: Float[Array, "*B M N"]  # before averaging over answers: the backbone's signal
    base: Float[Array, "*B M"]  # group-normalised reward
    shaping: Float[Array, "*B M"]  # cost-aware shaping, before its coefficient
    cost: Float[Array, "*B M"]  # proxy cost c in [0, 1]
    pivot: Float[Array, "*B"]  # cost at which shaping changes sides; 0 where there is none
    success: Float[Array, "*B M"]  # share of answers counted as right


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """The fields common to all estimators.

    Attributes:
      s_min: smallest scale the policy can draw.
      s_max: largest scale the policy can draw.
      success_threshold: an accuracy above it counts as a right answer.
      norm: how the reward is normalised inside a group.
    """

    s_min: float = 0.2
    s_max: float = 1.8
    success_threshold: float = 0.35
    norm: GroupNorm = GroupNorm()

    def __post_init__(self):
        if not 0.0 < self.s_min < self.s_max:
            raise ValueError(f"need 0 < s_min < s_max, got {self.s_min} and {self.s_max}")
