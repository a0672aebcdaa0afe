"""Rollouts: one encoder pass per prompt, M allocations drawn, N answers each.

The vision tower treats temporal pairs independently, so on frames with few legal sizes every pair
is encoded once at each of them and an allocation only gathers: the tower's cost does not grow with
M. A test holds the gathered tokens against those of the planned path that evaluation uses.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import struct

from resadapt_jax.allocator import AllocatorOutput, ScaleRange, pair_mask, pair_scales, policy
from resadapt_jax.generation.answer import (
    DecodingConfig,
    Prompts,
    encode_pairs,
    generate_from,
    lay_out,
)
from resadapt_jax.generation.decode import Generation
from resadapt_jax.models.convention import Convention
from resadapt_jax.models.families import ModelConfig
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.operators import SizeLimits, fit_budget, native_grids
from resadapt_jax.operators.sizes import size_table
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params, UInt8


class SizeLevels(NamedTuple):
    """Every legal size of a frame, smallest first, in merged tokens per side. Host constants."""

    rows: np.ndarray
    cols: np.ndarray

    @property
    def tokens(self) -> np.ndarray:
        return self.rows * self.cols

    @property
    def first_token(self) -> np.ndarray:
        """Where a level's tokens start among those of all levels of a pair."""
        return np.cumsum(self.tokens) - self.tokens


def size_levels(height: int, width: int, scale_range: ScaleRange, limits: SizeLimits) -> SizeLevels:
    """The distinct sizes that scales up to ``s_max`` lead to."""
    table = size_table(height, width, limits)
    reached = table.thresholds <= scale_range.s_max
    sizes = np.stack([table.heights[reached], table.widths[reached]], axis=1)
    rows, cols = np.unique(sizes, axis=0).T // limits.factor
    order = np.argsort(rows * cols, kind="stable")
    return SizeLevels(rows=rows[order], cols=cols[order])


def encode_levels(
    params: Params,
    config: ModelConfig,
    frames: UInt8[Array, "B F height width 3"],
    levels: SizeLevels,
) -> Float[Array, "B KU D"]:
    """Visual tokens of every pair at every level; a pair's levels one after another."""
    batch, num_pairs = frames.shape[0], frames.shape[1] // 2
    side = config.vision.patch_size * config.vision.spatial_merge_size
    clips = rearrange(frames, "b f h w c -> (b f) h w c")
    encoded = []
    for rows, cols in zip(levels.rows.tolist(), levels.cols.tolist(), strict=True):
        merge = config.vision.spatial_merge_size
        grid = jnp.tile(jnp.array([[1, rows * merge, cols * merge]]), (batch * num_pairs, 1))
        tokens, _ = encode_pairs(
            params,
            config,
            clips,
            grid,
            capacity=batch * num_pairs * rows * cols,
            max_height=rows * side,
            max_width=cols * side,
        )
        encoded.append(rearrange(tokens, "(b k u) d -> b k u d", b=batch, k=num_pairs))
    return rearrange(jnp.concatenate(encoded, axis=2), "b k u d -> b (k u) d")


def fit_levels(
    scales: Float[Array, "B M K"],
    frame_mask: Bool[Array, "B F"],
    height: int,
    width: int,
    budget: int,
    levels: SizeLevels,
    limits: SizeLimits,
) -> tuple[Int[Array, "B M E"], Bool[Array, "B M"]]:
    """The level of each pair within a token budget (-1 if absent), and who had to be lowered.

    Scales per frame are averaged over the pair. A budget may shape a pair as no level is; it then
    gets the level below, so nothing outside the cache is ever asked for.
    """
    unit_mask = pair_mask(frame_mask)
    if scales.shape[-1] == frame_mask.shape[-1]:
        scales = pair_scales(scales, frame_mask)

    def fit(scales: Array, mask: Array) -> tuple[Array, Array]:
        fitted = fit_budget(scales, mask, height, width, budget, limits)
        rows, cols = fitted.heights // limits.factor, fitted.widths // limits.factor
        within = (levels.rows[None, :] <= rows[:, None]) & (levels.cols[None, :] <= cols[:, None])
        level = jnp.max(jnp.where(within, jnp.arange(len(levels.rows))[None, :], -1), axis=1)
        return level, jnp.any((fitted.scales != scales) & mask)

    return jax.vmap(jax.vmap(fit, in_axes=(0, None)))(scales, unit_mask)


def level_grids(
    level: Int[Array, "*B K"], levels: SizeLevels, merge_size: int
) -> Int[Array, "*B K 3"]:
    """(1, rows, cols) in patches of each pair; zeros for an absent one."""
    present = level >= 0
    sides = [merge_size * jnp.asarray(side)[level] for side in (levels.rows, levels.cols)]
    return jnp.where(present[..., None], jnp.stack([jnp.ones_like(level), *sides], axis=-1), 0)


def level_index(
    layout: PromptLayout, level: Int[Array, "B K"], levels: SizeLevels
) -> Int[Array, "B T"]:
    """``layout.visual_index`` of the planned path, as rows of ``encode_levels``."""
    tokens = jnp.where(level >= 0, jnp.asarray(levels.tokens)[level], 0)
    ends = jnp.cumsum(tokens, axis=-1)
    index = jnp.maximum(layout.visual_index, 0)
    pair = jax.vmap(lambda e, i: jnp.searchsorted(e, i, side="right"))(ends, index)
    pair = jnp.minimum(pair, level.shape[1] - 1)
    within = index - jnp.take_along_axis(ends - tokens, pair, axis=-1)
    first = jnp.asarray(levels.first_token)[jnp.take_along_axis(level, pair, axis=-1)]
    row = pair * int(levels.tokens.sum()) + first + within
    return jnp.where(layout.visual_index >= 0, row, -1)


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How many allocations and answers a prompt gets, and under which limits."""

    num_allocations: int = 16
    """M, allocations drawn per prompt."""
    num_answers: int = 1
    """N, answers per allocation."""
    token_capacity: int = 128
    """Visual tokens of a prompt in a rollout; an allocation that asks for more is fitted to it."""
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        for name in ("num_allocations", "num_answers", "token_capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_allocations * self.num_answers < 2:
            raise ValueError("a group of one answer has no spread to normalise by; draw more")


@struct.dataclass
class Rollout:
    """Allocations drawn for a batch of prompts and the answers to them.

    An allocation that asked for more than the capacity is answered as fitted to it, and charged
    for what it asked.
    """

    actions: Float[Array, "B M K"]
    log_probs: Float[Array, "B M K"]  # under the policy that drew them
    scales: Float[Array, "B M K"]  # of the policy's units, as drawn
    unit_mask: Bool[Array, "B K"]
    tokens: Int[Array, "B M"]  # visual tokens that entered the decoder
    fitted: Bool[Array, "B M"]  # asked for more than the capacity
    answers: Generation  # every field [B, M, N, length]


def rollout(
    params: Params,
    config: ModelConfig,
    frames: UInt8[Array, "B F height width 3"],
    frame_mask: Bool[Array, "B F"],
    prompts: Prompts,
    allocation: AllocatorOutput,
    key: Key[Array, ""],
    *,
    rollouts: RolloutConfig,
    scale_range: ScaleRange,
    limits: SizeLimits,
    convention: Convention = Convention.HF_5,
) -> Rollout:
    """Draws allocations from the policy and answers every prompt under each of them."""
    draw, decode = jax.random.split(key)
    actions = allocation.policy.sample(draw, rollouts.num_allocations)
    scales = policy.to_scale(actions, scale_range)
    height, width = frames.shape[2:4]
    levels = size_levels(height, width, scale_range, limits)
    level, fitted = fit_levels(
        scales, frame_mask, height, width, rollouts.token_capacity, levels, limits
    )
    visual = encode_levels(params, config, frames, levels)
    prompts = prompts.replace(native_thw=native_grids(pair_mask(frame_mask), height, width, limits))
    answers = answer_allocations(
        params, config, visual, level, prompts, levels, rollouts, decode, convention
    )
    return Rollout(
        actions=actions,
        log_probs=allocation.policy.log_prob(actions),
        scales=scales,
        unit_mask=allocation.unit_mask,
        tokens=jnp.sum(jnp.where(level >= 0, jnp.asarray(levels.tokens)[level], 0), axis=-1),
        fitted=fitted,
        answers=answers,
    )


def answer_allocations(
    params: Params,
    config: ModelConfig,
    visual: Float[Array, "B KU D"],
    level: Int[Array, "B M K"],
    prompts: Prompts,
    levels: SizeLevels,
    rollouts: RolloutConfig,
    key: Key[Array, ""],
    convention: Convention = Convention.HF_5,
) -> Generation:
    """N answers to each of M allocations of B prompts; every field [B, M, N, length]."""
    batch, num_allocations = level.shape[:2]
    merge_size = config.vision.spatial_merge_size
    per_prompt = num_allocations * rollouts.num_answers

    def rows(x: Array) -> Array:
        return repeat(x, "b ... -> (b m) ...", m=per_prompt)

    flat = repeat(level, "b m k -> (b m n) k", n=rollouts.num_answers)
    grid_thw = level_grids(flat, levels, merge_size)
    layout = lay_out(
        jax.tree.map(rows, prompts), grid_thw, config, rollouts.token_capacity, convention
    )
    index = level_index(layout, flat, levels)
    generation = generate_from(
        params, config, layout.replace(visual_index=index), rows(visual), rollouts.decoding, key
    )
    return jax.tree.map(
        lambda x: x.reshape(batch, num_allocations, rollouts.num_answers, *x.shape[1:]), generation
    )
