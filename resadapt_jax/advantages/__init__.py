"""Advantages: how much better an allocation did than the others drawn for the same prompt.

``make_group`` gathers rewards, costs and masks into a ``Group``; an estimator is any function from
a ``Group`` to ``Advantages``, which ``make_advantages`` builds. A method of your own::

    def thrifty(group):
        base = advantages.normalise(group.rewards, group.mask, axis=(-2, -1))
        return advantages.make_advantages(group, base - 0.1 * group.cost[..., None], base=base)

Those that are here also take a configuration, and ``estimate`` picks one by its class.
"""

from resadapt_jax.advantages.baselines import (
    DirectCostConfig,
    GdpoConfig,
    PiecewiseConfig,
    direct_cost,
    gdpo,
    piecewise,
)
from resadapt_jax.advantages.capo import CapoConfig, capo
from resadapt_jax.advantages.estimate import AdvantageConfig, estimate
from resadapt_jax.advantages.group import (
    Advantages,
    Group,
    make_advantages,
    make_group,
    proxy_cost,
)
from resadapt_jax.advantages.grpo import GrpoConfig, grpo
from resadapt_jax.advantages.normalise import GroupNorm, informative, normalise
from resadapt_jax.advantages.unit_cost import UnitCostConfig, unit_cost

__all__ = [
    "AdvantageConfig",
    "Advantages",
    "CapoConfig",
    "DirectCostConfig",
    "GdpoConfig",
    "Group",
    "GroupNorm",
    "GrpoConfig",
    "PiecewiseConfig",
    "UnitCostConfig",
    "capo",
    "direct_cost",
    "estimate",
    "gdpo",
    "grpo",
    "informative",
    "make_advantages",
    "make_group",
    "normalise",
    "piecewise",
    "proxy_cost",
    "unit_cost",
]
