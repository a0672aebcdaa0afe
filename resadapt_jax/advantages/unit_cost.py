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
      gamma: γ, coefficient of the cost; that of CAPO presses as hard.
      norm: how a group is normalised.
    """

    gamma: float = 0.05
    norm: GroupNorm = GroupNorm()


def unit_cost(group: Group, config: UnitCostConfig = UnitCostConfig()) -> Advantages:
    """A_t = z(R) - γ/K·(c_t - mean_m c_t), c_t being a unit's own cost, c = mean_t c_t over K.

    A unit's draw changes its own cost alone, so what the others spent says nothing about it: in
    expectation the gradient is that of z(R) - γ·c, with less noise. The centred costs of a unit add
    up to nothing over a prompt's allocations.
    """
    base = normalise(group.rewards, group.mask, axis=(-2, -1), norm=config.norm)
    answered = group.mask.any(-1)[..., None]
    usual = masked_mean(group.unit_cost, answered, axis=-2, keepdims=True)
    saving = (usual - group.unit_cost) / _num_units(group)
    return make_advantages(
        group, base, per_unit=config.gamma * saving, base=base, cost=group.cost[..., None]
    )


def _num_units(group: Group) -> Float[Array, "*B 1 1"]:
    return jnp.maximum(jnp.sum(group.unit_mask, -1), 1)[..., None, None]
