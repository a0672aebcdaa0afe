"""CAPO: group-normalised advantages reshaped by cost (ResAdapt, arXiv 2603.28610, eq. 12-17).

The authors' released code differs from their paper in the sign and centring of the shaping, in
accuracy weights, and in the unit it judges; ``CapoConfig.form`` says which of the two is meant.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from resadapt_jax.advantages.group import Advantages, Group, make_advantages
from resadapt_jax.advantages.normalise import GroupNorm, masked_mean, normalise
from resadapt_jax.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class CapoConfig:
    """CAPO's coefficients; the paper gives no values, these are the released code's.

    Attributes:
      form: ``"paper"`` normalises the reward, shapes every answer by eq. (15) and then averages
        over answers; ``"released"`` normalises and judges an allocation's mean accuracy, centres
        the sigmoid, weights it by accuracy, and rewards a wrong answer for having cost more, not
        less.
      kappa_mix: κ_mix, share of the group's mean cost in the pivot.
      tau_fix: τ_fix, the fixed cost mixed into the pivot.
      tau_s: τ_s, temperature of the sigmoid, in units of cost.
      lambda_plus: λ₊, size of the shaping of right answers.
      lambda_minus: λ₋, size of the shaping of wrong answers.
      lambda_capo: λ_capo, coefficient of the shaping; 0 leaves only the cost outside the group
        normalisation.
      gamma: γ, coefficient of the cost.
      positive_floor: ε₊, least advantage of a right answer; None for no floor. In a group that is
        all right it cancels the cost of the expensive allocations.
      shaping_cap: limit of the shaping's absolute value; None for no limit.
      accuracy_power: released form; a right allocation's shaping is weighted by
        max(accuracy^power, accuracy_floor).
      accuracy_floor: released form; see ``accuracy_power``.
      error_power: released form; a wrong allocation's is weighted by (1 - accuracy)^power.
      norm: how a group is normalised.
    """

    form: Literal["paper", "released"] = "paper"
    kappa_mix: float = 0.5
    tau_fix: float = 0.4
    tau_s: float = 0.15
    lambda_plus: float = 0.7
    lambda_minus: float = 1.3
    lambda_capo: float = 0.25
    gamma: float = 0.05
    positive_floor: float | None = 1e-3
    shaping_cap: float | None = None
    accuracy_power: float = 0.5
    accuracy_floor: float = 0.05
    error_power: float = 1.0
    norm: GroupNorm = GroupNorm()

    def __post_init__(self):
        if self.form not in ("paper", "released"):
            raise ValueError(f'form must be "paper" or "released", got {self.form!r}')
        if not self.tau_s > 0.0:
            raise ValueError(f"tau_s must be positive, got {self.tau_s}")
        if not 0.0 <= self.kappa_mix <= 1.0:
            raise ValueError(f"kappa_mix must be in [0, 1], got {self.kappa_mix}")


def capo(group: Group, config: CapoConfig = CapoConfig()) -> Advantages:
    """A = A_base + λ_capo·S - γ·c, and at least ε₊ where the answer is right; eq. (16), (17).

    Nothing here is differentiated: the result is a constant of the update. Its terms are ``base``,
    ``shaping``, ``cost`` and ``pivot``.
    """
    if config.form == "paper":
        rewards, accuracy, success, mask = group.rewards, group.accuracy, group.success, group.mask
    else:
        accuracy = masked_mean(group.accuracy, group.mask, axis=-1, keepdims=True)
        rewards, mask = accuracy, group.mask.any(-1, keepdims=True)
        success = accuracy > group.success_threshold
    cost, pivot = group.cost[..., None], _pivot(group, config)[..., None, None]
    base = normalise(rewards, mask, axis=(-2, -1), norm=config.norm)
    shaping = _shaping(accuracy, success, cost - pivot, config)
    # A prompt of text alone costs nothing that an allocation could save.
    shaping = jnp.where(group.unit_mask.any(-1)[..., None, None], shaping, 0.0)
    values = base + config.lambda_capo * shaping - config.gamma * cost
    if config.positive_floor is not None:
        values = jnp.where(success, jnp.maximum(values, config.positive_floor), values)
    return make_advantages(group, values, base=base, shaping=shaping, cost=cost, pivot=pivot)


def _pivot(group: Group, config: CapoConfig) -> Float[Array, "*B"]:
    """τ_dyn = κ_mix·mean_m c_m + (1 - κ_mix)·τ_fix, eq. (14)."""
    mean_cost = masked_mean(group.cost, group.mask.any(-1), axis=-1)
    return config.kappa_mix * mean_cost + (1.0 - config.kappa_mix) * config.tau_fix


def _shaping(
    accuracy: Float[Array, "*B M N"],
    success: Bool[Array, "*B M N"],
    excess: Float[Array, "*B M 1"],
    config: CapoConfig,
) -> Float[Array, "*B M N"]:
    """Shaping S of answers whose allocation costs ``excess`` = c - τ_dyn more than the pivot.

    paper, eq. (15): λ₊ σ(-excess/τ_s) if right; -λ₋ σ(excess/τ_s) if wrong.
    released: λ₊ w₊ (σ(-excess/τ_s) - ½) if right; +λ₋ w₋ (σ(excess/τ_s) - ½) if wrong.
    """
    dear = jax.nn.sigmoid(excess / config.tau_s)
    cheap = jax.nn.sigmoid(-excess / config.tau_s)
    if config.form == "paper":
        right, wrong = config.lambda_plus * cheap, -config.lambda_minus * dear
    else:
        bounded = jnp.clip(accuracy, 0.0, 1.0)
        weight = jnp.maximum(bounded**config.accuracy_power, config.accuracy_floor)
        right = config.lambda_plus * weight * (cheap - 0.5)
        wrong = config.lambda_minus * (1.0 - bounded) ** config.error_power * (dear - 0.5)
    shaping = jnp.where(success, right, wrong)
    if config.shaping_cap is None:
        return shaping
    return jnp.clip(shaping, -config.shaping_cap, config.shaping_cap)
