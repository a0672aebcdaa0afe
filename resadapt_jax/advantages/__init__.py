"""Advantages: how much better an allocation did than the others drawn for the same prompt.

Every estimator has the signature of ``capo`` and returns an ``Advantages`` record; ``estimate``
picks it by the class of its configuration.
"""

from resadapt_jax.advantages.baselines import (
    AccuracyOnlyConfig,
    DirectCostConfig,
    accuracy_only,
    direct_cost,
)
from resadapt_jax.advantages.capo import CapoConfig, capo
from resadapt_jax.advantages.cost import proxy_cost
from resadapt_jax.advantages.estimate import estimate
from resadapt_jax.advantages.grpo import GroupNorm, grpo, normalise
from resadapt_jax.advantages.records import AdvantageConfig, Advantages

__all__ = [
    "AccuracyOnlyConfig",
    "AdvantageConfig",
    "Advantages",
    "CapoConfig",
    "DirectCostConfig",
    "GroupNorm",
    "accuracy_only",
    "capo",
    "direct_cost",
    "estimate",
    "grpo",
    "normalise",
    "proxy_cost",
]
