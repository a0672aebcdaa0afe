"""The methods compared: what each gives the backbone for a batch of clips.

A method is a function of the clips and of the scales that the allocator proposes for them; all but
ResAdapt ignore the latter. Everything random is a function of a seed and the clip's number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import NamedTuple

import jax
import numpy as np
from flax import struct

from resadapt_jax.errors import UserError
from resadapt_jax.evaluation.clips import Clips
from resadapt_jax.generation.prompts import Prompts
from resadapt_jax.operators import (
    NativeSizes,
    SizeLimits,
    fit_clips,
    grids,
    scaled_size,
    sizes_from_scales,
)
from resadapt_jax.operators.sizes import SizeTable, size_ladder, size_table
from resadapt_jax.training.config import EvaluationConfig
from resadapt_jax.typing import Bool, Float, Int

# Multiples of the golden ratio's fraction fill [0, 1) evenly, however many clips there are.
_GOLDEN = (5**0.5 - 1) / 2


PromptBuilder = Callable[[Clips, Bool[np.ndarray, "B K"]], Prompts]
"""Prompts of clips with the pairs shown alone (`clips.prompts_showing`)."""


class Proposals(NamedTuple):
    """Scales of the policy's mean, before any budget."""

    scales: Float[np.ndarray, "B K"]
    other_query: Float[np.ndarray, "B K"]  # had another clip's question been asked


@struct.dataclass
class Inputs:
    """What a backbone is given of a batch of clips."""

    grid_thw: Int[np.ndarray, "B K 3"]  # zeros for a pair that is not shown
    prompts: Prompts
    kept: Bool[np.ndarray, "B U"] | None = None  # entering the decoder; None for all


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodSetting:
    """A method at one setting: a point of the frontier, or a control."""

    method: str
    name: str
    build: Callable[[Clips, Proposals], Inputs]


def frontier_settings(
    config: EvaluationConfig,
    *,
    limits: SizeLimits,
    s_min: float,
    build_prompts: PromptBuilder,
) -> list[MethodSetting]:
    """Every point of the frontier. Methods that show all at full size come first, side by side."""
    drop = {"limits": limits, "seed": config.seed}
    points = [("vanilla", "scale 1", partial(vanilla, limits=limits))]
    for share in config.drop_retentions:
        points.append(("random_drop", f"tokens {share:g}", partial(drop_tokens, share, **drop)))
    for share in config.drop_retentions:
        build = partial(drop_pairs, share, build_prompts=build_prompts, **drop)
        points.append(("random_drop", f"frames {share:g}", build))
    for share in config.fixed_retentions:
        points.append(("fixed_scale", f"{share:g}", partial(fixed_scale, share, limits=limits)))
    points.append(("oracle", "evidence at 1", partial(oracle, limits=limits, s_min=s_min)))
    points.append(("resadapt", "free", partial(resadapt, limits=limits)))
    for share in config.budgets:
        build = partial(resadapt_within, share, limits=limits)
        points.append(("resadapt", f"budget {share:g}", build))
    return [MethodSetting(method=method, name=name, build=build) for method, name, build in points]


def control_settings(*, limits: SizeLimits, build_prompts: PromptBuilder) -> list[MethodSetting]:
    """What must fail: answering without the video, and allocating for another clip's question."""
    return [
        MethodSetting(
            method="control", name="blind", build=partial(blind, build_prompts=build_prompts)
        ),
        MethodSetting(
            method="control", name="other_query", build=partial(other_query, limits=limits)
        ),
    ]


def require_feasible_shares(
    config: EvaluationConfig, num_pairs: int, height: int, width: int, limits: SizeLimits
) -> None:
    """Raises ``UserError`` for a retention or a budget that no clip of this size can be given."""
    for share in config.fixed_retentions:
        _uniform_tokens(share, height, width, limits)
    table = size_table(height, width, limits)
    least = num_pairs * int((table.heights * table.widths).min()) // limits.factor**2
    for share in config.budgets:
        _require_budget(share, _budget(share, num_pairs, height, width, limits), least)


def require_capacity(
    config: EvaluationConfig, s_max: float, height: int, width: int, limits: SizeLimits
) -> None:
    """Raises ``UserError`` if scales up to ``s_max`` may ask for more than any capacity holds."""
    native = _tokens_at_one(height, width, limits)
    most = prod(scaled_size(height, width, max(s_max, 1.0), limits)) // limits.factor**2
    if max(config.capacities) * native < most:
        raise UserError(
            f"evaluation.capacities end at {max(config.capacities):g} of the native tokens, but "
            f"a scale of {s_max:g} asks for {most / native:g}"
        )


def vanilla(clips: Clips, proposals: Proposals, *, limits: SizeLimits) -> Inputs:
    """Every pair at scale 1."""
    return _at(np.ones(clips.evidence.shape), clips, limits)


def fixed_scale(
    retention: float, clips: Clips, proposals: Proposals, *, limits: SizeLimits
) -> Inputs:
    """Every pair at the scale that keeps ``retention`` of the tokens.

    Where no legal size does, the two next to it are mixed, evenly over time; which pairs get the
    larger one differs between clips, so that no moment is favoured.

    Raises:
        UserError: no mixture of sizes up to the native one keeps that much.
    """
    ladder, tokens, wanted = _uniform_tokens(retention, *clips.frame_size, limits)
    above = int(np.searchsorted(tokens, wanted))
    below = max(above - 1, 0)
    share = 1.0 if above == below else (wanted - tokens[below]) / (tokens[above] - tokens[below])
    larger = evenly(share, clips.num_pairs, clips.index)
    scales = np.where(larger, ladder.thresholds[above], ladder.thresholds[below])
    return _at(scales, clips, limits)


def drop_tokens(
    retention: float, clips: Clips, proposals: Proposals, *, limits: SizeLimits, seed: int
) -> Inputs:
    """Every pair encoded at scale 1, then a random subset of the visual tokens kept."""
    full = vanilla(clips, proposals, limits=limits)
    num_tokens = clips.num_pairs * _tokens_at_one(*clips.frame_size, limits)
    return full.replace(kept=random_subsets(retention, num_tokens, clips.index, (seed, 0)))


def drop_pairs(
    retention: float,
    clips: Clips,
    proposals: Proposals,
    *,
    limits: SizeLimits,
    seed: int,
    build_prompts: PromptBuilder,
) -> Inputs:
    """A random subset of the pairs at scale 1, at least one; the others vanish, headers too."""
    shown = random_subsets(retention, clips.num_pairs, clips.index, (seed, 1))
    grid_thw = _grids_at(np.ones(shown.shape), shown, *clips.frame_size, limits)
    return Inputs(grid_thw=grid_thw, prompts=build_prompts(clips, shown))


def oracle(clips: Clips, proposals: Proposals, *, limits: SizeLimits, s_min: float) -> Inputs:
    """The pairs that show the answer at scale 1, all others at the smallest scale."""
    return _at(np.where(clips.evidence, 1.0, s_min), clips, limits)


def resadapt(clips: Clips, proposals: Proposals, *, limits: SizeLimits) -> Inputs:
    """The mean of the policy, whatever it costs."""
    return _at(proposals.scales, clips, limits)


def resadapt_within(
    share: float, clips: Clips, proposals: Proposals, *, limits: SizeLimits
) -> Inputs:
    """The mean of the policy within a token budget, a ``share`` of each clip's native tokens.

    Raises:
        UserError: the budget is below the smallest legal grids of a clip.
    """
    budget = _budget(share, clips.num_pairs, *clips.frame_size, limits)
    shown = np.ones(proposals.scales.shape, bool)
    grid_thw, fitted = _fit_clips(proposals.scales, shown, clips.native(limits), budget)
    _require_budget(share, budget, int(fitted.floor.max()))
    return Inputs(grid_thw=np.asarray(grid_thw), prompts=clips.batch.prompts)


def other_query(clips: Clips, proposals: Proposals, *, limits: SizeLimits) -> Inputs:
    """What ResAdapt allocates for another clip's question; the backbone is asked the right one."""
    return _at(proposals.other_query, clips, limits)


def blind(clips: Clips, proposals: Proposals, *, build_prompts: PromptBuilder) -> Inputs:
    """The question alone."""
    nothing = np.zeros(clips.evidence.shape, bool)
    return Inputs(
        grid_thw=np.zeros((*nothing.shape, 3), np.int32),
        prompts=build_prompts(clips, nothing),
    )


def evenly(share: float, num_pairs: int, index: Int[np.ndarray, " B"]) -> Bool[np.ndarray, "B K"]:
    """Marks a ``share`` of the pairs at even distances, from a different start in every clip.

    Pair k is marked where ⌊share · (k + 1) + o⌋ > ⌊share · k + o⌋, o in [0, 1) being the clip's.
    """
    reached = share * np.arange(num_pairs + 1)[None, :] + _offsets(index)[:, None]
    return np.diff(np.floor(np.round(reached, 9)), axis=1) > 0


def random_subsets(
    share: float, size: int, index: Int[np.ndarray, " B"], seed: tuple[int, ...]
) -> Bool[np.ndarray, "B size"]:
    """Keeps ``share`` of ``size`` things at random in each clip, at least one.

    A fraction of a thing is kept in that fraction of the clips. A larger share keeps the same
    things and more.
    """
    counts = np.floor(np.round(share * size + _offsets(index), 9))
    ranks = [np.random.default_rng([*seed, int(clip)]).permutation(size) for clip in index]
    return np.stack(ranks) < np.maximum(counts, 1)[:, None]


def _offsets(index: Int[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    return index * _GOLDEN % 1.0


def _uniform_tokens(
    retention: float, height: int, width: int, limits: SizeLimits
) -> tuple[SizeTable, Int[np.ndarray, " steps"], float]:
    """Sizes of a pair in rising order, their tokens, and how many tokens are wanted of it."""
    ladder = size_ladder(height, width, limits)
    tokens = ladder.heights * ladder.widths // limits.factor**2
    native = _tokens_at_one(height, width, limits)
    if not tokens[0] <= retention * native <= native:
        lowest = tokens[0] / native
        raise UserError(f"a uniform scale keeps {lowest:g} to 1 of the tokens, not {retention:g}")
    return ladder, tokens, retention * native


def _budget(share: float, num_pairs: int, height: int, width: int, limits: SizeLimits) -> int:
    """A ``share`` of a clip's native tokens, rounded down."""
    return int(share * num_pairs * _tokens_at_one(height, width, limits) + 1e-6)


def _tokens_at_one(height: int, width: int, limits: SizeLimits) -> int:
    """Of a pair at scale 1."""
    return prod(scaled_size(height, width, 1.0, limits)) // limits.factor**2


def _require_budget(share: float, budget: int, least: int) -> None:
    if budget < least:
        raise UserError(f"a budget of {share:g} is {budget} tokens a clip, but {least} are needed")


def _at(scales: Float[np.ndarray, "B K"], clips: Clips, limits: SizeLimits) -> Inputs:
    shown = np.ones(scales.shape, bool)
    grid_thw = _grids_at(scales, shown, *clips.frame_size, limits)
    return Inputs(grid_thw=grid_thw, prompts=clips.batch.prompts)


def _grids_at(scales, shown, height, width, limits) -> Int[np.ndarray, "B K 3"]:
    native = NativeSizes.alike(height, width, limits)
    return np.asarray(_traced_grids(scales.astype(np.float32), shown, native))


@jax.jit
def _traced_grids(scales, shown, native):
    return grids(*sizes_from_scales(scales, native), shown, native.limits)


_fit_clips = jax.jit(fit_clips)
