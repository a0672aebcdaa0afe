"""GRPO and Dr.GRPO, blind to cost: what CAPO starts from, and the backbone's own as released."""

import dataclasses
from typing import Literal

from resadapt_jax.advantages.group import Advantages, Group, make_advantages
from resadapt_jax.advantages.normalise import GroupNorm, normalise


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """GRPO, blind to cost: the paper's cost-free ablation, and the backbone's update as released.

    Attributes:
      compare: ``"prompt"`` compares all M·N answers to a prompt (ResAdapt eq. 24),
        ``"allocation"`` the N answers given the same pixels.
      norm: the released backbone's; the released allocator takes the biased standard deviation.
        Dr.GRPO is ``GroupNorm(divide_by_std=False)``.
    """

    compare: Literal["prompt", "allocation"] = "prompt"
    norm: GroupNorm = GroupNorm(unbiased=True)

    def __post_init__(self):
        if self.compare not in ("prompt", "allocation"):
            raise ValueError(f'compare must be "prompt" or "allocation", got {self.compare!r}')


def grpo(group: Group, config: GrpoConfig = GrpoConfig()) -> Advantages:
    """A = z(R), with z(x) = (x - mean x) / (std x + ε) over the answers that are compared."""
    axis = (-2, -1) if config.compare == "prompt" else -1
    base = normalise(group.rewards, group.mask, axis=axis, norm=config.norm)
    return make_advantages(group, base, base=base)
