"""The ways to make a policy save that CAPO is compared with."""

import dataclasses

import jax.numpy as jnp

from resadapt_jax.advantages.group import Advantages, Group, make_advantages
from resadapt_jax.advantages.normalise import GroupNorm, masked_mean, normalise


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectCostConfig:
    """Cost as a plain penalty, without CAPO's shaping.

    Attributes:
      cost_weight: λ.
      normalised: whether the cost is inside the group normalisation, as a part of the reward
        (eq. 8). Outside it, it stays as small as its coefficient.
      norm: how a group is normalised.
    """

    cost_weight: float = 0.25
    normalised: bool = True
    norm: GroupNorm = GroupNorm()


@dataclasses.dataclass(frozen=True, kw_only=True)
class GdpoConfig:
    """GDPO: every part of the reward, and the cost, is normalised by itself.

    Attributes:
      cost_weight: λ; the released code's.
      right_only: whether only right answers are asked to save.
      norm: how each part is normalised.
    """

    cost_weight: float = 0.25
    right_only: bool = False
    norm: GroupNorm = GroupNorm()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PiecewiseConfig:
    """A reward that mixes one curve of the cost for right answers with another for wrong ones.

    The defaults are the released code's second set; its first has powers 1.5 and 1.0, weights .35,
    .45, .85 and .08, and no ``gamma``.

    Attributes:
      saving_power: of 1 - c, for right answers.
      spending_power: of c, for right answers.
      spending_weight: of c's power, for right answers.
      wrong_saving_weight: of 1 - c, for wrong answers.
      wrong_spending_weight: of c, for wrong answers.
      waste_weight: of c² for wrong answers.
      gamma: γ, coefficient of the cost outside the normalisation.
      norm: how a group is normalised.
    """

    saving_power: float = 1.55
    spending_power: float = 1.15
    spending_weight: float = 0.4
    wrong_saving_weight: float = 0.42
    wrong_spending_weight: float = 0.95
    waste_weight: float = 0.1
    gamma: float = 0.05
    norm: GroupNorm = GroupNorm()


def direct_cost(group: Group, config: DirectCostConfig = DirectCostConfig()) -> Advantages:
    """A = z(R - λ·c) over the M·N answers of a prompt; z(R) - λ·c where not ``normalised``.

    In a group whose answers are all right, or all wrong, only the cost varies, and normalisation
    gives it unit size whatever λ: the policy learns to spend nothing.
    """
    cost = group.cost[..., None]
    if config.normalised:
        rewards = group.rewards - config.cost_weight * cost
        base = normalise(rewards, group.mask, axis=(-2, -1), norm=config.norm)
        return make_advantages(group, base, base=base, cost=cost)
    base = normalise(group.rewards, group.mask, axis=(-2, -1), norm=config.norm)
    return make_advantages(group, base - config.cost_weight * cost, base=base, cost=cost)


def gdpo(group: Group, config: GdpoConfig = GdpoConfig()) -> Advantages:
    """A = Σ_k w_k·z(R_k) + λ·z(-c), over the reward parts k; arXiv 2601.05242.

    The parts are normalised over the M·N answers of a prompt, the cost over its M allocations; with
    ``right_only`` the last term is 0 for wrong answers. The released code sees accuracy alone; it
    has no normalisation over the batch, and neither has this.
    """
    base = sum(
        weight * normalise(group.reward_parts[name], group.mask, axis=(-2, -1), norm=config.norm)
        for name, weight in group.reward_weights.items()
    )
    saving = normalise(-group.cost, group.mask.any(-1), axis=-1, norm=config.norm)[..., None]
    saving = jnp.where(group.success, saving, 0.0) if config.right_only else saving
    return make_advantages(group, base + config.cost_weight * saving, base=base, saving=saving)


def piecewise(group: Group, config: PiecewiseConfig = PiecewiseConfig()) -> Advantages:
    """A = z(r) - γ·c over the M allocations of a prompt, a being an allocation's mean accuracy:

    r = a·[(1-c)^1.55 - .4·c^1.15] + (1-a)²·[.42·(1-c) - .95·c] - .1·(1-a)·c².

    The released code calls it piecewise adaptive; the paper does not have it. The bonus per frame
    that it may add is not here: an advantage belongs to an allocation as a whole.
    """
    right = jnp.clip(masked_mean(group.accuracy, group.mask, axis=-1), 0.0, 1.0)
    wrong, cost = 1.0 - right, group.cost
    when_right = (1.0 - cost) ** config.saving_power
    when_right = when_right - config.spending_weight * cost**config.spending_power
    when_wrong = config.wrong_saving_weight * (1.0 - cost) - config.wrong_spending_weight * cost
    rewards = right * when_right + wrong**2 * when_wrong - config.waste_weight * wrong * cost**2
    base = normalise(rewards, group.mask.any(-1), axis=-1, norm=config.norm)
    values = base - config.gamma * cost
    return make_advantages(group, values[..., None], base=base[..., None], cost=cost[..., None])
