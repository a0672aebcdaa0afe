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
from resadapt_jax.models.prompt import PromptLayout
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig
from resadapt_jax.operators import SizeLimits, fit_budget, grids
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
    config: Qwen2_5VLConfig,
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
            max_frame_tokens=rows * cols,
            max_height=rows * side,
            max_width=cols * side,
        )
        encoded.append(rearrange(tokens, "(b k u) d -> b k u d", b=batch, k=num_pairs))
    return rearrange(jnp.concatenate(encoded, axis=2), "b k u d -> b (k u) d")


def level_index(
    layout: PromptLayout, grid_thw: Int[Array, "B K 3"], levels: SizeLevels, merge_size: int
) -> Int[Array, "B T"]:
    """``layout.visual_index`` of the planned path, as rows of ``encode_levels``."""
    rows, cols = grid_thw[..., 1] // merge_size, grid_thw[..., 2] // merge_size
    same = (rows[..., None] == levels.rows[None, None, :]) & (
        cols[..., None] == levels.cols[None, None, :]
    )
    level = jnp.argmax(same, axis=-1)
    tokens = rows * cols
    ends = jnp.cumsum(tokens, axis=-1)
    index = jnp.maximum(layout.visual_index, 0)
    pair = jax.vmap(lambda e, i: jnp.searchsorted(e, i, side="right"))(ends, index)
    pair = jnp.minimum(pair, grid_thw.shape[1] - 1)
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


@struct.dataclass
class Rollout:
    """Allocations drawn for a batch of prompts and the answers to them."""

    actions: Float[Array, "B M K"]
    log_probs: Float[Array, "B M K"]  # under the policy that drew them
    scales: Float[Array, "B M K"]  # of the policy's units
    tokens: Int[Array, "B M"]  # visual tokens that entered the decoder
    fitted: Bool[Array, "B M"]  # asked for more than the capacity
    answers: Generation  # every field [B, M, N, length]


def rollout(
    params: Params,
    config: Qwen2_5VLConfig,
    frames: UInt8[Array, "B F height width 3"],
    frame_mask: Bool[Array, "B F"],
    prompts: Prompts,
    allocation: AllocatorOutput,
    key: Key[Array, ""],
    *,
    rollouts: RolloutConfig,
    scale_range: ScaleRange,
    limits: SizeLimits,
) -> Rollout:
    """Draws allocations from the policy and answers every prompt under each of them."""
    draw, decode = jax.random.split(key)
    actions = policy.sample(draw, allocation.alpha, allocation.beta, rollouts.num_allocations)
    scales = policy.to_scale(actions, scale_range)
    height, width = frames.shape[2:4]
    grid_thw, fitted = fit_pairs(scales, frame_mask, height, width, rollouts.token_capacity, limits)
    levels = size_levels(height, width, scale_range, limits)
    visual = encode_levels(params, config, frames, levels)
    answers = answer_allocations(
        params, config, visual, grid_thw, prompts, levels, rollouts, decode
    )
    return Rollout(
        actions=actions,
        log_probs=policy.log_prob(
            actions, allocation.alpha[:, None, :], allocation.beta[:, None, :]
        ),
        scales=scales,
        tokens=jnp.sum(grid_thw[..., 1] * grid_thw[..., 2], axis=-1) // limits.merge_size**2,
        fitted=fitted,
        answers=answers,
    )


def fit_pairs(
    scales: Float[Array, "B M K"],
    frame_mask: Bool[Array, "B F"],
    height: int,
    width: int,
    budget: int,
    limits: SizeLimits,
) -> tuple[Int[Array, "B M E 3"], Bool[Array, "B M"]]:
    """Grids of the pairs within a token budget, and which allocations had to be lowered.

    Scales per frame are averaged over the pair.
    """
    unit_mask = pair_mask(frame_mask)
    if scales.shape[-1] == frame_mask.shape[-1]:
        scales = pair_scales(scales, frame_mask)

    def fit(scales: Array, mask: Array) -> tuple[Array, Array]:
        fitted = fit_budget(scales, mask, height, width, budget, limits)
        changed = jnp.any((fitted.scales != scales) & mask)
        return grids(fitted.heights, fitted.widths, mask, limits), changed

    return jax.vmap(jax.vmap(fit, in_axes=(0, None)))(scales, unit_mask)


def answer_allocations(
    params: Params,
    config: Qwen2_5VLConfig,
    visual: Float[Array, "B KU D"],
    grid_thw: Int[Array, "B M K 3"],
    prompts: Prompts,
    levels: SizeLevels,
    rollouts: RolloutConfig,
    key: Key[Array, ""],
) -> Generation:
    """N answers to each of M allocations of B prompts; every field [B, M, N, length]."""
    batch, num_allocations = grid_thw.shape[:2]
    per_prompt = num_allocations * rollouts.num_answers

    def rows(x: Array) -> Array:
        return repeat(x, "b ... -> (b m) ...", m=per_prompt)

    flat = repeat(grid_thw, "b m k t -> (b m n) k t", n=rollouts.num_answers)
    layout = lay_out(jax.tree.map(rows, prompts), flat, config, rollouts.token_capacity)
    index = level_index(layout, flat, levels, config.vision.spatial_merge_size)
    generation = generate_from(
        params, config, layout.replace(visual_index=index), rows(visual), rollouts.decoding, key
    )
    return jax.tree.map(
        lambda x: x.reshape(batch, num_allocations, rollouts.num_answers, *x.shape[1:]), generation
    )
