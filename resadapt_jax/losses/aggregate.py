"""From per-element losses to one number: masked sums that are divided once, at the very end."""

from typing import Literal

import jax.numpy as jnp
from flax import struct

from resadapt_jax.typing import Array, Bool, Float

Aggregation = Literal["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum"]


@struct.dataclass
class WeightedSum:
    """A mean whose division is still to come.

    Sums over micro-batches and devices by ``+``, so the mean is that of the whole batch however it
    was cut; a mean of means would not be.
    """

    total: Float[Array, ""]  # Σ of the weighted values
    weight: Float[Array, ""]  # Σ of the weights

    def __add__(self, other: "WeightedSum") -> "WeightedSum":
        return WeightedSum(self.total + other.total, self.weight + other.weight)

    def mean(self) -> Float[Array, ""]:
        """total / weight; 0 where nothing was counted."""
        counted = self.weight > 0
        return jnp.where(counted, self.total, 0.0) / jnp.where(counted, self.weight, 1.0)


@struct.dataclass
class Extremes:
    """How far values lie below and above 0 at most; both 0 where nothing was counted.

    Adds up over micro-batches as ``WeightedSum`` does, and like it begins at zeros.
    """

    lowest: Float[Array, ""]
    highest: Float[Array, ""]

    def __add__(self, other: "Extremes") -> "Extremes":
        return Extremes(
            jnp.minimum(self.lowest, other.lowest), jnp.maximum(self.highest, other.highest)
        )


Sums = dict[str, WeightedSum | Extremes]
"""What is logged of a loss, until the last part of its batch is there."""


def add_sums(a: Sums, b: Sums) -> Sums:
    """Those of two parts of a batch as one."""
    return {name: value + b[name] for name, value in a.items()}


def masked_extremes(values: Float[Array, "*S"], mask: Bool[Array, "*S"] | None = None) -> Extremes:
    """min(0, smallest) and max(0, largest) of the values where ``mask``."""
    values = jnp.asarray(values, jnp.float32)
    mask = jnp.ones(values.shape, bool) if mask is None else mask
    _check_shapes(values, mask)
    counted = jnp.where(mask, values, 0.0)
    return Extremes(lowest=jnp.min(counted, initial=0.0), highest=jnp.max(counted, initial=0.0))


def masked_sum(values: Float[Array, "*S"], mask: Bool[Array, "*S"] | None = None) -> WeightedSum:
    """Σ values where ``mask``, over their number."""
    values = jnp.asarray(values, jnp.float32)
    mask = jnp.ones(values.shape, bool) if mask is None else mask
    _check_shapes(values, mask)
    return WeightedSum(
        total=jnp.sum(jnp.where(mask, values, 0.0)), weight=jnp.sum(mask, dtype=jnp.float32)
    )


def mean_per_sequence(
    values: Float[Array, "*S T"], mask: Bool[Array, "*S T"] | None = None
) -> tuple[Float[Array, "*S"], Bool[Array, "*S"]]:
    """Mean of each sequence over its valid elements, and which sequences have any."""
    values = jnp.asarray(values, jnp.float32)
    mask = jnp.ones(values.shape, bool) if mask is None else mask
    _check_shapes(values, mask)
    total = jnp.sum(jnp.where(mask, values, 0.0), -1)
    return total / jnp.maximum(jnp.sum(mask, -1), 1), mask.any(-1)


def aggregate(
    values: Float[Array, "*S T"],
    mask: Bool[Array, "*S T"] | None = None,
    *,
    mode: Aggregation = "token-mean",
    length: int | None = None,
) -> WeightedSum:
    """Reduces per-element losses of many sequences.

    ``"token-mean"``: every element weighs the same, so a long sequence weighs more (DAPO).
    ``"sequence-mean-token-mean"``: every sequence weighs the same, its elements averaged first, as
    in GRPO and ResAdapt's eq. (24).
    ``"sequence-mean-token-sum"``: each sequence's elements are added up and divided by ``length``,
    a constant, so that no answer gains by its own length (Dr.GRPO).

    Raises:
      ValueError: another mode, the last one without a positive length, or shapes that differ.
    """
    if mode == "token-mean":
        return masked_sum(values, mask)
    if mode == "sequence-mean-token-mean":
        return masked_sum(*mean_per_sequence(values, mask))
    if mode == "sequence-mean-token-sum":
        if length is None or length < 1:
            raise ValueError(f"{mode} divides by a positive length, got {length}")
        mask = jnp.ones(values.shape, bool) if mask is None else mask
        weight = jnp.sum(mask.any(-1), dtype=jnp.float32)
        return WeightedSum(total=masked_sum(values, mask).total / length, weight=weight)
    raise ValueError(f"unknown aggregation mode {mode!r}")


def _check_shapes(values: Array, mask: Array) -> None:
    if values.shape != mask.shape:
        raise ValueError(f"values {values.shape} and mask {mask.shape} must have the same shape")
