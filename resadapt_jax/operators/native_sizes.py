"""From scales to sizes under jit, for units of differing native size.

A table look-up: the host lists the steps of each native size once (`sizes.size_table`) and the
device finds the step by bisection. That is exact, float64 rounding at ties included, which no
float32 formula would be (a 4:3 frame meets such a tie whenever the pixel cap binds).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from resadapt_jax.operators.sizes import SizeLimits, ladder_steps, scaled_size, size_table
from resadapt_jax.typing import Array, Bool, Float, Int


class StepList(NamedTuple):
    """`size_table` and `ladder_steps` of several native sizes, one size behind the other."""

    first: np.ndarray  # [sizes] where the steps of each size start
    last: np.ndarray  # [sizes] its last step
    thresholds: np.ndarray  # [steps] float32
    heights: np.ndarray  # [steps] int32, pixels
    widths: np.ndarray  # [steps] int32, pixels
    ladder: np.ndarray  # [steps] int32, the step of the ladder that holds there


@lru_cache(maxsize=16)
def step_list(sizes: tuple[tuple[int, int], ...], limits: SizeLimits) -> StepList:
    """The steps of all of ``sizes``, (height, width) each. Host arrays."""
    tables = [size_table(*size, limits) for size in sizes]
    ends = np.cumsum([len(table.thresholds) for table in tables])
    first = np.concatenate([[0], ends[:-1]])
    ladders = [
        ladder_steps(*size, limits) + start for size, start in zip(sizes, first, strict=True)
    ]
    columns = [np.concatenate(column) for column in zip(*tables, strict=True)]
    return StepList(
        first.astype(np.int32),
        (ends - 1).astype(np.int32),
        *columns,
        np.concatenate(ladders).astype(np.int32),
    )


@struct.dataclass
class NativeSizes:
    """The native size of every unit: one of a few sizes that are known when compiling.

    Attributes:
        index: which of ``sizes`` a unit has; 0 for an absent one. Any shape that broadcasts against
            that of the scales, so a scalar where all units are alike.
        sizes: (height, width) in pixels.
        limits: legal sizes.
    """

    index: Int[Array, "*B K"]
    sizes: tuple[tuple[int, int], ...] = struct.field(pytree_node=False)
    limits: SizeLimits = struct.field(pytree_node=False)

    @classmethod
    def alike(cls, height: int, width: int, limits: SizeLimits) -> "NativeSizes":
        """All units of one size."""
        return cls(index=np.int32(0), sizes=((height, width),), limits=limits)

    def over(self, shape: tuple[int, ...]) -> "NativeSizes":
        """The same with an index for every unit of ``shape``."""
        return self.replace(index=jnp.broadcast_to(self.index, shape))

    @property
    def steps(self) -> StepList:
        """Of all sizes, constants of what is compiled."""
        return step_list(self.sizes, self.limits)

    @property
    def heights(self) -> Int[Array, "*B K"]:
        """In pixels."""
        return self._of_each([height for height, _ in self.sizes])

    @property
    def widths(self) -> Int[Array, "*B K"]:
        """In pixels."""
        return self._of_each([width for _, width in self.sizes])

    def at_scale_one(self) -> tuple[Int[Array, "*B K"], Int[Array, "*B K"]]:
        """Heights and widths at scale 1, in pixels."""
        legal = [scaled_size(*size, 1.0, self.limits) for size in self.sizes]
        return tuple(self._of_each(side) for side in zip(*legal, strict=True))

    @property
    def tokens(self) -> Int[Array, "*B K"]:
        """n(1): merged tokens at scale 1."""
        heights, widths = self.at_scale_one()
        return (heights // self.limits.factor) * (widths // self.limits.factor)

    def step(self, scales: Float[Array, "*B K"]) -> Int[Array, "*B K"]:
        """The step of ``steps`` that holds at each scale."""
        thresholds = jnp.asarray(self.steps.thresholds)
        return self.last_step(lambda step: thresholds[step] <= scales)

    def last_step(
        self, holds: Callable[[Int[Array, "*B K"]], Bool[Array, "*B K"]]
    ) -> Int[Array, "*B K"]:
        """The last step of each unit's size at which something holds, by bisection.

        Args:
            holds: true up to some step of a size and false from there on; taken as true at its
                first.
        """
        steps = self.steps
        low, high = jnp.asarray(steps.first)[self.index], jnp.asarray(steps.last)[self.index]
        shape = jax.eval_shape(holds, low).shape

        def halve(_, bounds):
            low, high = bounds
            middle = (low + high + 1) // 2
            up = holds(middle)
            return jnp.where(up, middle, low), jnp.where(up, high, middle - 1)

        bounds = jnp.broadcast_to(low, shape), jnp.broadcast_to(high, shape)
        longest = int((steps.last - steps.first).max())
        return jax.lax.fori_loop(0, longest.bit_length(), halve, bounds)[0]

    def _of_each(self, values: Sequence[int]) -> Int[Array, "*B K"]:
        return jnp.asarray(np.asarray(values, np.int32))[self.index]


def sizes_from_scales(
    scales: Float[Array, "*B K"], native: NativeSizes
) -> tuple[Int[Array, "*B K"], Int[Array, "*B K"]]:
    """`scaled_size` of every unit, traced; equal to it for every float32 scale in [0, MAX_SCALE].

    Args:
        scales: linear scale of each unit.
        native: their native sizes.

    Returns:
        Heights and widths in pixels, int32. Integers: no gradient reaches the scales.
    """
    step = native.step(jax.lax.stop_gradient(scales))
    return jnp.asarray(native.steps.heights)[step], jnp.asarray(native.steps.widths)[step]
