"""What an estimator is given, a ``Group``, and what it gives back, ``Advantages``."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import struct
from flax.core import FrozenDict

from resadapt_jax.advantages.normalise import masked_mean
from resadapt_jax.typing import Array, Bool, Float


@struct.dataclass
class Group:
    """What came of the M allocations drawn for each prompt, N graded answers to each.

    Built by ``make_group``. Answers outside ``mask``, units outside ``unit_mask`` and allocations
    without an answer hold 0.
    """

    reward_parts: dict[str, Float[Array, "*B M N"]]  # by name, before their weights
    rewards: Float[Array, "*B M N"]  # Σ weight·part
    success: Bool[Array, "*B M N"]  # the answer counts as right
    cost: Float[Array, "*B M"]  # proxy cost c in [0, 1], eq. (13)
    unit_cost: Float[Array, "*B M K"]  # of each unit; c is their mean
    scales: Float[Array, "*B M K"]
    unit_mask: Bool[Array, "*B K"]  # units that exist
    mask: Bool[Array, "*B M N"]  # answers that count
    reward_weights: FrozenDict[str, float] = struct.field(pytree_node=False)
    success_threshold: float = struct.field(pytree_node=False)

    @property
    def accuracy(self) -> Float[Array, "*B M N"]:
        """The reward part of that name, in [0, 1]."""
        return self.reward_parts["accuracy"]


@struct.dataclass
class Advantages:
    """The advantage of each allocation and of each answer (float32); 0 where masked."""

    values: Float[Array, "*B M"]  # of an allocation
    per_unit: Float[Array, "*B M K"]  # what the allocator's surrogate multiplies
    per_answer: Float[Array, "*B M N"]  # before averaging over answers: the backbone's signal
    terms: dict[str, Float[Array, "*B M"]]  # what they are made of, before coefficients: for logs


def make_group(
    reward_parts: Mapping[str, Float[Array, "*B M N"]],
    scales: Float[Array, "*B M K"],
    unit_mask: Bool[Array, "*B K"],
    *,
    s_min: float,
    s_max: float,
    reward_weights: Mapping[str, float] | None = None,
    success: Bool[Array, "*B M N"] | None = None,
    success_threshold: float = 0.35,
    mask: Bool[Array, "*B M N"] | None = None,
) -> Group:
    """Checks the shapes, weighs the rewards, judges the answers and computes the cost.

    Args:
      reward_parts: each kind of reward by name: ``"accuracy"`` in [0, 1], and any others.
      scales: scale of each unit in each allocation.
      unit_mask: units that exist.
      s_min: smallest scale the policy can draw.
      s_max: largest scale the policy can draw.
      reward_weights: weight of each part in the total; 1 for a part that is not named.
      success: answers that count as right, where the grader says so itself.
      success_threshold: otherwise those whose accuracy is above it. CAPO's released form holds an
        allocation's mean accuracy against it, whatever the grader says of an answer.
      mask: answers that count, all when None. The others may hold anything, NaN included.

    Raises:
      ValueError: shapes that do not agree, no accuracy, the weight of a part that is not there, or
        an impossible range of scales.
    """
    weights = dict(reward_weights or {})
    if "accuracy" not in reward_parts:
        raise ValueError(f"reward_parts must have 'accuracy', got {sorted(reward_parts)}")
    if unknown := weights.keys() - reward_parts.keys():
        raise ValueError(f"reward_weights names {sorted(unknown)}, which are not in reward_parts")
    parts = {name: jnp.asarray(part, jnp.float32) for name, part in reward_parts.items()}
    weights = FrozenDict({name: float(weights.get(name, 1.0)) for name in sorted(parts)})
    mask = jnp.ones(parts["accuracy"].shape, bool) if mask is None else jnp.asarray(mask)
    scales, unit_mask = jnp.asarray(scales, jnp.float32), jnp.asarray(unit_mask)
    optional = {} if success is None else {"success": success}
    _check_shapes({**parts, **optional, "mask": mask}, scales, unit_mask)
    parts = {name: jnp.where(mask, part, 0.0) for name, part in parts.items()}
    success = parts["accuracy"] > success_threshold if success is None else jnp.asarray(success)
    answered = mask.any(-1)
    units = unit_mask[..., None, :] & answered[..., None]
    unit_cost = _relative_cost(scales, s_min, s_max)
    return Group(
        reward_parts=parts,
        rewards=sum(weights[name] * part for name, part in parts.items()),
        success=success & mask,
        cost=jnp.where(answered, proxy_cost(scales, unit_mask, s_min, s_max), 0.0),
        unit_cost=jnp.where(units, unit_cost, 0.0),
        scales=jnp.where(units, scales, 0.0),
        unit_mask=unit_mask,
        mask=mask,
        reward_weights=weights,
        success_threshold=success_threshold,
    )


def make_advantages(
    group: Group,
    per_answer: Float[Array, "*B M N"],
    *,
    unit_bonus: Float[Array, "*B M K"] | float = 0.0,
    **terms: Float[Array, "*B M N"],
) -> Advantages:
    """Masks advantages per answer and averages them over the N answers of an allocation.

    A prompt of which only one allocation was answered has no other to compare it with: its
    ``values`` are 0, and so is what its units earned.

    Args:
      group: the group they were computed from.
      per_answer: an advantage per answer; or per allocation or per prompt, with axes of size 1.
      unit_bonus: what each unit earned beside its allocation.
      **terms: what it is made of, of the same shapes, to be logged.

    Raises:
      ValueError: an array that does not broadcast to [*B, M, N], or has fewer axes.
    """
    averages = {name: _mean_over_answers(group, name, term) for name, term in terms.items()}
    values = _mean_over_answers(group, "per_answer", per_answer)
    answered = group.mask.any(-1)
    several = jnp.sum(answered, -1, keepdims=True) > 1
    values = jnp.where(several, values, 0.0)
    units = group.unit_mask[..., None, :] & (answered & several)[..., None]
    return Advantages(
        values=values,
        per_unit=jnp.where(units, values[..., None] + unit_bonus, 0.0),
        per_answer=jnp.where(group.mask, jnp.asarray(per_answer, jnp.float32), 0.0),
        terms=averages,
    )


def proxy_cost(
    scales: Float[Array, "*B M K"], unit_mask: Bool[Array, "*B K"], s_min: float, s_max: float
) -> Float[Array, "*B M"]:
    """c = (mean_t s_t - s_min) / (s_max - s_min), ResAdapt eq. (13), over valid units.

    Clipped to [0, 1] as in the released code: nothing changes for scales the policy can draw.
    """
    scales = jnp.asarray(scales, jnp.float32)
    mask = jnp.broadcast_to(unit_mask[..., None, :], scales.shape)
    return _relative_cost(masked_mean(scales, mask, axis=-1), s_min, s_max)


def _relative_cost(scale: Float[Array, "*S"], s_min: float, s_max: float) -> Float[Array, "*S"]:
    if not 0.0 < s_min < s_max:
        raise ValueError(f"need 0 < s_min < s_max, got {s_min} and {s_max}")
    return jnp.clip((scale - s_min) / (s_max - s_min), 0.0, 1.0)


def _mean_over_answers(group: Group, name: str, values: Array) -> Float[Array, "*B M"]:
    if jnp.ndim(values) != group.mask.ndim:
        raise ValueError(
            f"{name} {jnp.shape(values)} must have as many axes as the answers {group.mask.shape}"
        )
    values = jnp.broadcast_to(jnp.asarray(values, jnp.float32), group.mask.shape)
    return masked_mean(values, group.mask, axis=-1)


def _check_shapes(per_answer: Mapping[str, Array], scales: Array, unit_mask: Array) -> None:
    shape = per_answer["accuracy"].shape
    expected = (*shape[:-2], shape[-2], unit_mask.shape[-1])
    if scales.shape != expected or unit_mask.shape[:-1] != shape[:-2]:
        raise ValueError(
            f"accuracy {shape}, scales {scales.shape} and unit_mask {unit_mask.shape} "
            "are not [*B, M, N], [*B, M, K] and [*B, K]"
        )
    for name, array in per_answer.items():
        if jnp.shape(array) != shape:
            raise ValueError(f"{name} {jnp.shape(array)} must have accuracy's shape {shape}")
