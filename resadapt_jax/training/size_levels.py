"""Every pair of frames encoded once at each of its few legal sizes, for all allocations at once.

The vision tower treats temporal pairs independently, so an allocation only gathers its tokens: the
tower's cost does not grow with M. A test holds what is gathered against the planned path, in which
every allocation is resized and encoded.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from resadapt_jax.allocator import ScaleRange
from resadapt_jax.generation.visual import encode_pairs, encode_whole
from resadapt_jax.models.families import ModelConfig
from resadapt_jax.models.partition import map_rows
from resadapt_jax.operators import NativeSizes, SizeLimits, fit_budget
from resadapt_jax.operators.sizes import size_table
from resadapt_jax.typing import Array, Bool, Float, Int, Params, UInt8


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


def worth_encoding(levels: SizeLevels, num_pairs: int, num_allocations: int, capacity: int) -> bool:
    """Whether all levels of all pairs are at most half the tokens that the allocations may have.

    Half, as few allocations fill the capacity, and each level is a tower of its own to compile.
    """
    return 2 * num_pairs * int(levels.tokens.sum()) <= num_allocations * capacity


def encode_levels(
    params: Params,
    config: ModelConfig,
    frames: UInt8[Array, "B F height width 3"],
    levels: SizeLevels,
    num_shares: int = 1,
) -> Float[Array, "B KU W"]:
    """Visual tokens of every pair at every level; a pair's levels one after another.

    Args:
        num_shares: parts that the batch is split into over a mesh; clips of a part are packed into
            one sequence.
    """
    batch, num_pairs = frames.shape[0], frames.shape[1] // 2
    merge = config.vision.spatial_merge_size
    side = config.vision.patch_size * merge
    clips = rearrange(frames, "(s b) f h w c -> s (b f) h w c", s=num_shares)
    pairs = batch // num_shares * num_pairs
    encoded = []
    for rows, cols in zip(levels.rows.tolist(), levels.cols.tolist(), strict=True):

        def encode(clips: Array, rows: int = rows, cols: int = cols) -> Array:
            if (rows * side, cols * side) == clips.shape[1:3]:
                return encode_whole(params, config, clips)
            grid = jnp.tile(jnp.array([[1, rows * merge, cols * merge]]), (pairs, 1))
            tokens, _ = encode_pairs(
                params,
                config,
                clips,
                grid,
                capacity=pairs * rows * cols,
                max_height=rows * side,
                max_width=cols * side,
            )
            return tokens

        tokens = map_rows(encode)(clips)
        encoded.append(
            rearrange(tokens, "s (b k u) d -> (s b) k u d", b=batch // num_shares, k=num_pairs)
        )
    return rearrange(jnp.concatenate(encoded, axis=2), "b k u d -> b (k u) d")


def fit_levels(
    scales: Float[Array, "B M E"],
    pairs: Bool[Array, "B E"],
    native: NativeSizes,
    budget: int,
    levels: SizeLevels,
) -> tuple[Int[Array, "B M E"], Bool[Array, "B M"]]:
    """The level of each pair within a token budget (-1 if absent), and who had to be lowered.

    A budget may shape a pair as no level is; it then gets the level below, so nothing outside the
    cache is ever asked for.
    """

    def fit(scales: Array, mask: Array, native: NativeSizes) -> tuple[Array, Array]:
        fitted = fit_budget(scales, mask, native, budget)
        factor = native.limits.factor
        rows, cols = fitted.heights // factor, fitted.widths // factor
        within = (levels.rows[None, :] <= rows[:, None]) & (levels.cols[None, :] <= cols[:, None])
        level = jnp.max(jnp.where(within, jnp.arange(len(levels.rows))[None, :], -1), axis=1)
        return level, jnp.any((fitted.scales != scales) & mask)

    of_prompt = jax.vmap(fit, in_axes=(0, None, None))
    return jax.vmap(of_prompt)(scales, pairs, native.over(pairs.shape))


def level_grids(
    level: Int[Array, "*B K"], levels: SizeLevels, merge_size: int
) -> Int[Array, "*B K 3"]:
    """(1, rows, cols) in patches of each pair; zeros for an absent one."""
    present = level >= 0
    sides = [merge_size * jnp.asarray(side)[level] for side in (levels.rows, levels.cols)]
    return jnp.where(present[..., None], jnp.stack([jnp.ones_like(level), *sides], axis=-1), 0)


def gather_levels(
    encoded: Float[Array, "B KU W"],
    level: Int[Array, "B M E"],
    levels: SizeLevels,
    capacity: int,
) -> Float[Array, "B M U W"]:
    """The tokens of each allocation, packed as `generation.visual.encode_pairs` packs them.

    Args:
        encoded: what `encode_levels` gave.
        level: of each pair, -1 for an absent one.
        capacity: tokens that an allocation has room for; what is left of it holds anything.
    """
    tokens = jnp.where(level >= 0, jnp.asarray(levels.tokens)[level], 0)
    ends = jnp.cumsum(tokens, axis=-1)
    place = jnp.arange(capacity)
    pair = jnp.sum(place[None, None, :, None] >= ends[:, :, None, :], axis=-1)
    pair = jnp.minimum(pair, level.shape[2] - 1)
    within = place[None, None, :] - jnp.take_along_axis(ends - tokens, pair, axis=-1)
    first = jnp.asarray(levels.first_token)[jnp.take_along_axis(level, pair, axis=-1)]
    row = jnp.minimum(pair * int(levels.tokens.sum()) + first + within, encoded.shape[1] - 1)
    return jax.vmap(lambda table, rows: table[rows])(encoded, row)
