"""Fit an allocation to a token budget: a budget is a promise.

A request above the budget is lowered along one path from the smallest legal grids to the
requested ones, and the last point of the path that fits is taken. All scales shrink by one common
factor; at the point where the next factor would exceed the budget, units are raised one by one,
highest scale first, and the last of them by one side alone. Hence a larger budget never shrinks a
frame. Only where the path leaves more than a tenth of the budget unused (one or two coarse units)
is one unit reshaped, within its requested size, to use it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from resadapt_jax.operators.sizes import (
    SizeLimits,
    SizeTable,
    look_up,
    size_ladder,
    size_table,
    sizes_from_scales,
)
from resadapt_jax.typing import Array, Bool, Float, Int

_FACTOR_BITS = 24  # common factors are multiples of 2⁻²⁴, exact in float32


@struct.dataclass
class FittedScales:
    """An allocation that keeps its budget.

    A unit whose size was kept has its requested scale, bit for bit; one whose size was changed
    has the realised √(hw / HW).
    """

    scales: Float[Array, "K"]
    heights: Int[Array, "K"]  # pixels, 0 for absent units
    widths: Int[Array, "K"]
    tokens: Int[Array, "K"]
    floor: Int[Array, ""]  # tokens of the smallest legal grids
    infeasible: Bool[Array, ""]  # the budget is below `floor`; sizes are then the smallest


class _Grids(NamedTuple):
    """Sizes in merged tokens."""

    rows: Int[Array, "K"]
    cols: Int[Array, "K"]

    @property
    def tokens(self) -> Int[Array, "K"]:
        return self.rows * self.cols

    def where(self, condition: Bool[Array, "K"], other: "_Grids") -> "_Grids":
        return _Grids(
            jnp.where(condition, self.rows, other.rows), jnp.where(condition, self.cols, other.cols)
        )


def _shrunk(
    steps: Int[Array, ""], scales: Float[Array, "K"], request: _Grids, ladder: SizeTable, side: int
) -> _Grids:
    """Grids when every scale is multiplied by steps·2⁻²⁴, never larger than the request."""
    rows, cols = jnp.asarray(ladder.heights // side), jnp.asarray(ladder.widths // side)
    fits = (rows[None, :] <= request.rows[:, None]) & (cols[None, :] <= request.cols[:, None])
    # Above the last threshold a scale changes nothing, so shrinking starts from there.
    reach = jnp.minimum(scales, ladder.thresholds[-1])
    level = look_up(ladder, reach * (steps.astype(jnp.float32) * 2.0**-_FACTOR_BITS))
    level = jnp.clip(level, 0, jnp.maximum(jnp.sum(fits, axis=1) - 1, 0))
    shrunk = _Grids(rows[level], cols[level])
    keep = (steps >= 2**_FACTOR_BITS) | (shrunk.tokens >= request.tokens)
    return request.where(keep, shrunk)


def _raise_in_order(low: _Grids, high: _Grids, scales: Float[Array, "K"], budget) -> _Grids:
    """Raise units from `low` to `high`, highest scale first, as far as the budget goes."""
    num_units = scales.shape[0]
    order = jnp.argsort(-scales, stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(num_units, dtype=order.dtype))
    left = budget - jnp.sum(low.tokens)
    num_raised = jnp.sum(jnp.cumsum((high.tokens - low.tokens)[order]) <= left)
    grids = high.where(rank < num_raised, low)
    available = grids.tokens + budget - jnp.sum(grids.tokens)
    for side in (_Grids(high.rows, low.cols), _Grids(low.rows, high.cols)):
        better = (side.tokens > grids.tokens) & (side.tokens <= jnp.minimum(available, high.tokens))
        grids = side.where((rank == num_raised) & better, grids)
    return grids


def _reshape_one(
    grids: _Grids, request: _Grids, unit_mask: Bool[Array, "K"], budget, aspect: float, longest: int
) -> _Grids:
    """Give one unit the least distorted grid that brings use to 90 % of the budget, or the most.

    Candidates: every number of rows, with as many columns as the request and the budget allow.
    """
    used = jnp.sum(jnp.where(unit_mask, grids.tokens, 0))
    allowance = (grids.tokens + budget - used)[:, None]
    rows = jnp.arange(1, longest + 1, dtype=jnp.int32)[None, :]
    cols = jnp.minimum(request.cols[:, None], allowance // rows)
    gain = rows * cols - grids.tokens[:, None]
    legal = unit_mask[:, None] & (rows <= request.rows[:, None]) & (gain > 0)
    enough = used + gain >= budget - budget // 10
    distortion = jnp.abs(jnp.log(rows / jnp.maximum(cols, 1) / aspect))
    # Distortion stays below log of the longest side squared, so any candidate that suffices wins.
    score = jnp.where(enough, 1e6 - distortion, gain.astype(jnp.float32))
    score = jnp.where(legal, score, -1.0)
    unit, row = jnp.unravel_index(jnp.argmax(score), score.shape)
    chosen = (jnp.arange(unit_mask.shape[0]) == unit) & (score[unit, row] > 0)
    return _Grids(jnp.broadcast_to(rows[0, row], chosen.shape), cols[:, row]).where(chosen, grids)


def fit_budget(
    scales: Float[Array, "K"],
    unit_mask: Bool[Array, "K"],
    height: int,
    width: int,
    budget: int | Int[Array, ""],
    limits: SizeLimits,
) -> FittedScales:
    """Sizes whose tokens never exceed `budget`; those requested if they already fit.

    If more was requested, at least 90 % of the budget is used whenever grids within the requested
    sizes allow it. Frames may shrink below s_min, down to the size of scale 0.

    Args:
        scales: requested scale of each unit of one clip.
        unit_mask: False for absent units, which get size 0.
        height, width: native size in pixels, static.
        budget: tokens for the clip, traced: one compilation serves every budget.
    """
    budget = jnp.asarray(budget, jnp.int32)
    side = limits.factor
    scales = jnp.where(unit_mask, jax.lax.stop_gradient(scales), 0).astype(jnp.float32)
    heights, widths = sizes_from_scales(scales, height, width, limits)
    request = _Grids(heights // side, widths // side)
    request = _Grids(*(jnp.where(unit_mask, sides, 0) for sides in request))
    ladder = size_ladder(height, width, limits)

    def shrunk(steps):
        return _shrunk(steps, scales, request, ladder, side)

    def bisect(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        fits = jnp.sum(shrunk(middle).tokens) <= budget
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    bounds = (jnp.int32(0), jnp.int32(2**_FACTOR_BITS))
    low, high = jax.lax.fori_loop(0, _FACTOR_BITS, bisect, bounds)
    grids = _raise_in_order(shrunk(low), shrunk(high), scales, budget)
    longest = int(max(size_table(height, width, limits).heights)) // side
    reshaped = _reshape_one(grids, request, unit_mask, budget, height / width, longest)
    wasteful = jnp.sum(grids.tokens) < budget - budget // 10
    grids = reshaped.where(wasteful[None], grids)

    floor = jnp.sum(shrunk(jnp.int32(0)).tokens)
    grids = shrunk(jnp.int32(0)).where((floor > budget)[None], grids)
    grids = request.where((jnp.sum(request.tokens) <= budget)[None], grids)
    kept = (grids.rows == request.rows) & (grids.cols == request.cols)
    realised = jnp.sqrt(grids.tokens * (side**2 / (height * width)))
    return FittedScales(
        scales=jnp.where(kept, scales, realised),
        heights=grids.rows * side,
        widths=grids.cols * side,
        tokens=grids.tokens,
        floor=floor,
        infeasible=floor > budget,
    )


def require_feasible(fitted: FittedScales, budget: int) -> None:
    """Raise ValueError, naming the smallest possible sum, if the budget is below it. Host only."""
    if bool(fitted.infeasible):
        raise ValueError(
            f"a budget of {int(budget)} tokens is too small: "
            f"the smallest legal grids of this clip need {int(fitted.floor)}"
        )
