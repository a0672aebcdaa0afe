"""Cost credited to the unit that caused it, outside the group normalisation. Not in the paper."""

import dataclasses

import jax.numpy as jnp

from resadapt_jax.advantages.group import Advantages, Group, make_advantages
from resadapt_jax.advantages.normalise import GroupNorm, masked_mean, normalise
from resadapt_jax.typing import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitCostConfig:
    """Coefficients of ``unit_cost``.

    Attributes:
      gamma: γ, coefficient of the cost; where all answers are right, that of CAPO presses as hard.
      success_power: κ, how much more the cost counts on prompts that are answered well: not at
        all where no answer is right, and everywhere alike at 0.
      norm: how a group is normalised.
    """

    gamma: float = 0.05
    success_power: float = 4.0
    norm: GroupNorm = GroupNorm()


def unit_cost(group: Group, config: UnitCostConfig = UnitCostConfig()) -> Advantages:
    """A_t = z(R) - γ·p^κ/K·(c_t - mean_m c_t); c_t is a unit's cost, p the share of successes.

    A unit's draw changes its own cost alone, so what the others spent says nothing about it: with
    p = 1 the gradient is in expectation that of z(R) - γ·c, with less noise. With p, cost hardly
    presses on prompts that are not answered yet, so that no question is given up to save.
    """
    base = normalise(group.rewards, group.mask, axis=(-2, -1), norm=config.norm)
    answered = group.mask.any(-1)[..., None]
    usual = masked_mean(group.unit_cost, answered, axis=-2, keepdims=True)
    saving = (usual - group.unit_cost) / _num_units(group)
    successes = masked_mean(group.success, group.mask, axis=(-2, -1))
    saving = saving * (successes**config.success_power)[..., None, None]
    return make_advantages(
        group, base, per_unit=config.gamma * saving, base=base, cost=group.cost[..., None]
    )


def _num_units(group: Group) -> Float[Array, "*B 1 1"]:
    return jnp.maximum(jnp.sum(group.unit_mask, -1), 1)[..., None, None]
