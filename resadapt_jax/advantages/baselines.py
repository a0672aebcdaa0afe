"""The estimators CAPO is compared with: accuracy alone, and cost inside the normalised reward."""

import dataclasses

import jax.numpy as jnp

from resadapt_jax.advantages.cost import masked_mean
from resadapt_jax.advantages.group import Group, gather
from resadapt_jax.advantages.grpo import normalise
from resadapt_jax.advantages.records import AdvantageConfig, Advantages
from resadapt_jax.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccuracyOnlyConfig(AdvantageConfig):
    """Cost-free control: nothing asks the policy to save."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectCostConfig(AdvantageConfig):
    """Cost as a plain penalty inside the reward.

    Attributes:
      cost_weight: λ of R - λ·c, eq. (8).
    """

    cost_weight: float = 0.25


def accuracy_only(
    accuracy: Float[Array, "*B M N"],
    scales: Float[Array, "*B M K"],
    unit_mask: Bool[Array, "*B K"],
    config: AccuracyOnlyConfig = AccuracyOnlyConfig(),
    *,
    rewards: Float[Array, "*B M N"] | None = None,
    mask: Bool[Array, "*B M N"] | None = None,
) -> Advantages:
    """A = z(R) over the M·N answers of a prompt. Arguments as in ``capo``."""
    group = gather(accuracy, scales, unit_mask, config, rewards, mask)
    return _normalised(group, group.rewards, config)


def direct_cost(
    accuracy: Float[Array, "*B M N"],
    scales: Float[Array, "*B M K"],
    unit_mask: Bool[Array, "*B K"],
    config: DirectCostConfig = DirectCostConfig(),
    *,
    rewards: Float[Array, "*B M N"] | None = None,
    mask: Bool[Array, "*B M N"] | None = None,
) -> Advantages:
    """A = z(R - λ·c) over the M·N answers of a prompt. Arguments as in ``capo``.

    In a group whose answers are all right, or all wrong, only the cost varies, and normalisation
    gives it unit size whatever λ: the policy learns to spend nothing.
    """
    group = gather(accuracy, scales, unit_mask, config, rewards, mask)
    return _normalised(group, group.rewards - config.cost_weight * group.cost[..., None], config)


def _normalised(
    group: Group, rewards: Float[Array, "*B M N"], config: AdvantageConfig
) -> Advantages:
    per_answer = normalise(rewards, group.mask, axis=(-2, -1), norm=config.norm)
    values = masked_mean(per_answer, group.mask, axis=-1)
    success = (group.accuracy > config.success_threshold).astype(jnp.float32)
    return Advantages(
        values=values,
        per_answer=per_answer,
        base=values,
        shaping=jnp.zeros_like(values),
        cost=group.cost,
        pivot=jnp.zeros(values.shape[:-1], jnp.float32),
        success=masked_mean(success, group.mask, axis=-1),
    )
