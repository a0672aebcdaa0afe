"""Fit an allocation to a token budget: a budget is a promise.

A request above the budget is lowered along one path from the smallest legal grids to the
requested ones, and the last point of the path that fits is taken. All scales shrink by one common
factor; where the next factor would exceed the budget, units are raised one by one, highest scale
first, and the last of them by one side alone. Hence a larger budget takes tokens from no unit.
Only where the path leaves more than a tenth of the budget unused (one or two coarse units) is one
unit reshaped, within its requested size, to use it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from resadapt_jax.operators.grids import grids as grids_in_patches
from resadapt_jax.operators.native_sizes import NativeSizes, sizes_from_scales
from resadapt_jax.typing import Array, Bool, Float, Int

_FACTOR_BITS = 24  # common factors are multiples of 2⁻²⁴, exact in float32


@struct.dataclass
class FittedScales:
    """An allocation that keeps its budget, or a batch of them.

    A unit whose size was kept has its requested scale, bit for bit; one whose size was changed
    has the realised √(hw / HW).
    """

    scales: Float[Array, "*B K"]
    heights: Int[Array, "*B K"]  # pixels, 0 for absent units
    widths: Int[Array, "*B K"]
    tokens: Int[Array, "*B K"]
    floor: Int[Array, "*B"]  # sum of the smallest legal grids
    infeasible: Bool[Array, "*B"]  # the budget is below `floor`; sizes are then the smallest


class _Grids(NamedTuple):
    """Sizes in merged tokens."""

    rows: Int[Array, "K"]
    cols: Int[Array, "K"]

    @property
    def tokens(self) -> Int[Array, "K"]:
        return self.rows * self.cols


def _where(condition: Bool[Array, "K"], grids: _Grids, others: _Grids) -> _Grids:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), grids, others)


def _path(scales: Float[Array, "K"], request: _Grids, native: NativeSizes):
    """The grids when every scale is multiplied by n·2⁻²⁴, as a function of n; tokens grow with n.

    No side exceeds the request, except that of the smallest legal grid if that has fewer tokens.
    """
    steps, side = native.steps, native.limits.factor
    ladder = jnp.asarray(steps.ladder)
    levels = _Grids(jnp.asarray(steps.heights) // side, jnp.asarray(steps.widths) // side)
    highest = _highest_within(request, native)
    # Above its last threshold the ladder ends, so shrinking starts from there.
    top = ladder[jnp.asarray(steps.last)[native.index]]
    reach = jnp.minimum(scales, jnp.asarray(steps.thresholds)[top])

    def grids_at(n: Int[Array, ""]) -> _Grids:
        level = ladder[native.step(reach * (n.astype(jnp.float32) * 2.0**-_FACTOR_BITS))]
        grids = jax.tree.map(lambda side: side[jnp.minimum(level, highest)], levels)
        return _where((n >= 2**_FACTOR_BITS) | (grids.tokens >= request.tokens), request, grids)

    return grids_at


def _highest_within(request: _Grids, native: NativeSizes) -> Int[Array, "K"]:
    """The last step of each unit's ladder that is within its request; else the first.

    Sides grow along a ladder, so bisection finds it.
    """
    steps, side = native.steps, native.limits.factor
    rows, cols = (jnp.asarray(x[steps.ladder] // side) for x in (steps.heights, steps.widths))

    def within(step: Int[Array, "K"]) -> Bool[Array, "K"]:
        return (rows[step] <= request.rows) & (cols[step] <= request.cols)

    return jnp.asarray(steps.ladder)[native.last_step(within)]


def _last_factor(grids_at, budget: Int[Array, ""]) -> Int[Array, ""]:
    """The largest n whose grids fit the budget, by bisection; 0 if none does."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        fits = jnp.sum(grids_at(middle).tokens) <= budget
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    bounds = (jnp.int32(0), jnp.int32(2**_FACTOR_BITS))
    return jax.lax.fori_loop(0, _FACTOR_BITS, halve, bounds)[0]


def _raise_in_order(
    low: _Grids, high: _Grids, scales: Float[Array, "K"], budget: Int[Array, ""]
) -> _Grids:
    """Raise units from `low` to `high`, highest scale first, as far as the budget goes."""
    index = jnp.arange(scales.shape[0])
    mine, other = scales[:, None], scales[None, :]
    ahead = (other > mine) | ((other == mine) & (index[None, :] <= index[:, None]))
    spent = jnp.sum(jnp.where(ahead, (high.tokens - low.tokens)[None, :], 0), axis=1)
    raised = spent <= budget - jnp.sum(low.tokens)
    is_next = jnp.sum(ahead, axis=1) == jnp.sum(raised) + 1
    grids = _where(raised, high, low)
    available = grids.tokens + budget - jnp.sum(grids.tokens)
    for side in (_Grids(high.rows, low.cols), _Grids(low.rows, high.cols)):
        fits = (side.tokens > grids.tokens) & (side.tokens <= jnp.minimum(available, high.tokens))
        grids = _where(is_next & fits, side, grids)
    return grids


def _reshape_one(
    grids: _Grids,
    request: _Grids,
    budget: Int[Array, ""],
    aspect: Float[Array, "K"],
    most_rows: int,
) -> _Grids:
    """Give one unit the least distorted grid that brings use to 90 % of the budget, or the most.

    Candidates: every number of rows, with as many columns as the request and the budget allow.
    """
    used = jnp.sum(grids.tokens)
    rows = jnp.arange(1, most_rows + 1, dtype=jnp.int32)[None, :]
    cols = jnp.minimum(request.cols[:, None], (grids.tokens + budget - used)[:, None] // rows)
    gain = rows * cols - grids.tokens[:, None]
    suffices = used + gain >= budget - budget // 10
    distortion = jnp.abs(jnp.log(rows / (jnp.maximum(cols, 1) * aspect[:, None])))
    # Gains are made less than 1, and distortions are less than 100: whatever suffices wins. Beside
    # 1e3 float32 tells distortions apart that differ by 6e-5, and takes the same for the same.
    score = jnp.where(suffices, 1e3 - distortion, gain / (budget + 1))
    score = jnp.where((gain > 0) & (rows <= request.rows[:, None]), score, 0.0)
    unit, row = jnp.unravel_index(jnp.argmax(score), score.shape)
    chosen = (jnp.arange(score.shape[0]) == unit) & (score[unit, row] > 0)
    return _where(chosen, _Grids(rows[0, row], cols[:, row]), grids)


def fit_budget(
    scales: Float[Array, "K"],
    unit_mask: Bool[Array, "K"],
    native: NativeSizes,
    budget: int | Int[Array, ""],
) -> FittedScales:
    """Sizes whose tokens never exceed `budget`; those requested if they already fit.

    If more was requested, at least 90 % of the budget is used. The exceptions are budgets below
    64 tokens over fewer than eight units, where whole rows and columns may not add up (two frames
    of 2 x 2 tokens cannot use 7), and a single unit. Frames may shrink below s_min, down to the
    size at scale 0.

    Args:
        scales: requested scale of each unit of one clip; no gradient reaches them.
        unit_mask: False for absent units, which get size 0.
        native: native size of each unit.
        budget: tokens for the clip, traced: one compilation serves every budget.
    """
    budget = jnp.asarray(budget, jnp.int32)
    native, side = native.over(unit_mask.shape), native.limits.factor
    scales = jnp.where(unit_mask, jax.lax.stop_gradient(scales), 0.0).astype(jnp.float32)
    sizes = sizes_from_scales(scales, native)
    request = _Grids(*(jnp.where(unit_mask, size // side, 0) for size in sizes))

    grids_at = _path(scales, request, native)
    last = _last_factor(grids_at, budget)
    rows, cols = jax.vmap(grids_at)(jnp.stack([jnp.zeros_like(last), last, last + 1]))
    smallest, low, high = (_Grids(rows[i], cols[i]) for i in range(3))
    grids = _raise_in_order(low, high, scales, budget)
    most_rows = int(native.steps.heights.max()) // side
    area = native.heights * native.widths
    reshaped = _reshape_one(grids, request, budget, native.heights / native.widths, most_rows)
    grids = _where(jnp.sum(grids.tokens) < budget - budget // 10, reshaped, grids)

    floor = jnp.sum(smallest.tokens)
    grids = _where(floor > budget, smallest, grids)
    grids = _where(jnp.sum(request.tokens) <= budget, request, grids)
    kept = (grids.rows == request.rows) & (grids.cols == request.cols)
    realised = jnp.sqrt(grids.tokens * (side**2 / area))
    return FittedScales(
        scales=jnp.where(kept, scales, realised),
        heights=grids.rows * side,
        widths=grids.cols * side,
        tokens=grids.tokens,
        floor=floor,
        infeasible=floor > budget,
    )


def fit_clips(
    scales: Float[Array, "B K"],
    unit_mask: Bool[Array, "B K"],
    native: NativeSizes,
    budget: int | Int[Array, ""],
) -> tuple[Int[Array, "B K 3"], FittedScales]:
    """`fit_budget` of every clip of a batch, each within `budget`; also its grids in patches."""

    def fit(clip: Array, mask: Array, sizes: NativeSizes) -> FittedScales:
        return fit_budget(clip, mask, sizes, budget)

    fitted = jax.vmap(fit)(scales, unit_mask, native.over(unit_mask.shape))
    return grids_in_patches(fitted.heights, fitted.widths, unit_mask, native.limits), fitted


def require_feasible(fitted: FittedScales, budget: int) -> None:
    """Raise ValueError, naming the smallest possible sum, if the budget is below it. Host only."""
    if bool(fitted.infeasible):
        raise ValueError(
            f"a budget of {int(budget)} tokens is too small: "
            f"the smallest legal grids of this clip need {int(fitted.floor)}"
        )
