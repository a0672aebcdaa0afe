"""Credit: from graded answers to the advantage of every allocation, and of every answer."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from resadapt_jax.advantages import Advantages, Group, GrpoConfig, grpo, informative, make_group
from resadapt_jax.allocator import ScaleRange
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training.measures import mean_of_rows, mean_where
from resadapt_jax.training.mesh import keep_rows
from resadapt_jax.typing import Array, Bool, Float, PyTree

Estimator = Callable[[Group], Advantages]
"""What a group earned; `advantages.estimate` with a config, or a user's own function."""


@partial(jax.jit, static_argnames=("scale_range", "rewards", "success_threshold", "estimator"))
def judge(
    reward_parts: dict[str, Float[Array, "B M N"]],
    scales: Float[Array, "B M K"],
    unit_mask: Bool[Array, "B K"],
    valid: Bool[Array, " B"],
    *,
    scale_range: ScaleRange,
    rewards: RewardConfig,
    success_threshold: float,
    estimator: Estimator,
    decided: Bool[Array, "B M N"] | None = None,
) -> tuple[Group, Advantages, dict[str, Array]]:
    """What the answers earned their allocations, and metrics.

    Args:
        valid: prompts that count.
        decided: answers that could be graded; None: all. The others are in no group.
    """
    shape = reward_parts["accuracy"].shape
    decided = jnp.ones(shape, bool) if decided is None else decided
    group = make_group(
        reward_parts,
        scales,
        unit_mask,
        s_min=scale_range.s_min,
        s_max=scale_range.s_max,
        reward_weights={"format": rewards.format_weight} if "format" in reward_parts else None,
        success_threshold=success_threshold,
        mask=valid[:, None, None] & decided,
    )
    earned = estimator(group)

    # Texts alone leave nothing to allocate, and what was not graded counts nowhere.
    allocated = unit_mask.any(axis=1)[:, None] & group.mask.any(axis=-1)
    answers = group.mask.reshape(shape[0], -1)
    spread = jnp.std(group.rewards.reshape(shape[0], -1), axis=1, where=answers)
    parts = group.reward_parts.items()
    metrics = {f"reward_{name}": mean_where(part, group.mask) for name, part in parts}
    metrics |= {name: mean_where(term, allocated) for name, term in earned.terms.items()}
    metrics |= {
        "reward": mean_where(group.rewards, group.mask),
        "reward_spread": mean_of_rows(spread, answers.any(axis=1)),
        "cost": mean_where(group.cost, allocated),
        "ungraded_share": mean_of_rows(1.0 - decided, valid),
        "advantage_max": jnp.max(jnp.abs(earned.per_unit)),
    }
    return group, earned, metrics


@partial(jax.jit, static_argnames=("plain", "informative_only"))
def credit_answers(
    group: Group,
    earned: Advantages,
    weights: Float[Array, "B M"] | None,
    *,
    plain: GrpoConfig | None,
    informative_only: bool,
) -> tuple[Float[Array, "B M N"], Bool[Array, "B M N"], Bool[Array, " B"]]:
    """What the backbone learns from: advantages of answers, which count, informative prompts.

    A prompt is informative if its answers differ in accuracy, whatever else they are rewarded for.

    Args:
        weights: of allocations (``ispred``); None weighs them alike.
        plain: GRPO that compares the total rewards of all answers instead of taking ``earned``.
        informative_only: leaves out the answers to prompts that are not informative.
    """
    values = earned.per_answer if plain is None else grpo(group, plain).per_answer
    if weights is not None:
        values = values * weights[:, :, None]
    differ = informative(group.accuracy, group.mask)
    counted = group.mask & differ[:, None, None] if informative_only else group.mask
    return values, counted, differ


@partial(jax.jit, static_argnames="oversampling")
def keep_informative(
    tree: PyTree[Array],
    informative: Bool[Array, " B"],
    valid: Bool[Array, " B"],
    *,
    oversampling: int,
) -> PyTree[Array]:
    """The rows of a batch that are learnt from: of ``oversampling`` prompts in turn, one.

    It is the first that is informative, or else the first that counts. Prompts are compared with
    their neighbours alone, so no row leaves its device, and the choice is the same on every mesh.

    Args:
        tree: arrays [B, ...], B a multiple of ``oversampling``.
        informative: prompts whose answers differ; they all count.
        valid: prompts that count.

    Returns:
        Arrays [B / oversampling, ...].
    """
    rank = 2 * informative + valid
    place = jnp.argmax(rank.reshape(-1, oversampling), axis=1)

    def keep(x: Array) -> Array:
        pools = x.reshape(len(place), oversampling, *x.shape[1:])
        return jax.vmap(lambda pool, i: pool[i])(pools, place)

    return keep_rows(jax.tree.map(keep, tree))
