"""Cost credited to the unit that caused it, where answers are right. Not in the paper."""

import dataclasses

from resadapt_jax.advantages.group import Advantages, Group, make_advantages
from resadapt_jax.advantages.normalise import GroupNorm, masked_mean, normalise


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitCostConfig:
    """Coefficients of ``unit_cost``.

    Attributes:
      gamma: γ, coefficient of a unit's cost.
      success_power: κ, how much more the cost counts on prompts that are answered well: not at
        all where no answer is right, and everywhere alike at 0.
      norm: how a group is normalised.
    """

    gamma: float = 1.0
    success_power: float = 16.0
    norm: GroupNorm = GroupNorm()

    def __post_init__(self):
        if self.success_power < 0.0:
            raise ValueError(f"success_power must not be negative, got {self.success_power}")


def unit_cost(group: Group, config: UnitCostConfig = UnitCostConfig()) -> Advantages:
    """A_k = z(R) - γ·p^κ·(c_k - mean_m c_k); c_k is a unit's cost, p the share of successes.

    A unit's draw changes its own cost alone, so what the others spent says nothing about it: with
    p = 1 the gradient is in expectation that of z(R) - γ'·c at γ' = γ·K·(M-1)/M, with less noise.
    The power keeps cost from pressing on prompts that are not answered yet: none is given up to
    save.
    """
    base = normalise(group.rewards, group.mask, axis=(-2, -1), norm=config.norm)
    answered = group.mask.any(-1)[..., None]
    usual = masked_mean(group.unit_cost, answered, axis=-2, keepdims=True)
    successes = masked_mean(group.success, group.mask, axis=(-2, -1))[..., None, None]
    saving = successes**config.success_power * (usual - group.unit_cost)
    return make_advantages(
        group, base, unit_bonus=config.gamma * saving, base=base, cost=group.cost[..., None]
    )
