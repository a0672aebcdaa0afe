"""Rollouts: M allocations drawn for each prompt, N answers to each, batched by capacity.

The allocations of a prompt are sorted by their tokens, most first. Those that stand at the same
places in all prompts are answered together, under the smallest capacity that holds them: batches
keep a row for every prompt, so they stay split over a mesh, and little of them is padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import struct

from resadapt_jax.allocator import AllocatorOutput, ScaleRange, pair_mask, pair_scales
from resadapt_jax.allocator.policy import to_scale
from resadapt_jax.generation.answer import (
    DecodingConfig,
    Prompts,
    encode_pairs,
    generate_from,
    lay_out,
)
from resadapt_jax.generation.decode import Generation
from resadapt_jax.generation.teacher_forcing import answer_log_probs
from resadapt_jax.models.convention import Convention
from resadapt_jax.models.families import ModelConfig
from resadapt_jax.models.partition import map_rows
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.operators import CapacityLadder, SizeLimits, fit_clips, native_grids
from resadapt_jax.training.size_levels import (
    SizeLevels,
    encode_levels,
    fit_levels,
    gather_levels,
    level_grids,
    size_levels,
    worth_encoding,
)
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params, PyTree, UInt8


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How many allocations and answers a prompt gets, and under which limits."""

    num_allocations: int = 16
    """M, allocations drawn per prompt."""
    num_answers: int = 1
    """N, answers per allocation."""
    token_capacity: int = 128
    """Visual tokens of a prompt in a rollout; an allocation that asks for more is fitted to it."""
    capacity_shares: tuple[float, ...] = (1.0,)
    """Capacities to compile for, as shares of the largest: each costs a compilation, and what an
    allocation leaves unused of its own costs time."""
    allocations_per_pass: int = 0
    """Allocations of every prompt that are answered at once, 0 for all; it divides their number."""
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        for name in ("num_allocations", "num_answers", "token_capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_allocations * self.num_answers < 2:
            raise ValueError(
                "num_allocations x num_answers is 1: a group of one answer has no spread to "
                "normalise by; draw more"
            )
        if not self.capacity_shares or not all(0 < share <= 1 for share in self.capacity_shares):
            raise ValueError(f"capacity_shares must be within (0, 1], got {self.capacity_shares}")
        if max(self.capacity_shares) < 1:
            raise ValueError("capacity_shares must end with 1, the capacity that all may need")
        if self.allocations_per_pass < 0 or self.num_allocations % self.pass_size:
            raise ValueError(
                f"allocations_per_pass must divide num_allocations {self.num_allocations}, "
                f"got {self.allocations_per_pass}"
            )

    @property
    def pass_size(self) -> int:
        return self.allocations_per_pass or self.num_allocations

    @property
    def ladder(self) -> CapacityLadder:
        return CapacityLadder.of_shares(self.capacity_shares, self.token_capacity)


class Geometry(NamedTuple):
    """What is static about clips and their sizes; hashable.

    Attributes:
        height, width: native size in pixels.
        num_frames: of a clip, absent ones included.
        scale_range: of the policy.
        limits: of legal sizes.
        convention: how positions are numbered.
        num_shares: parts that a batch is split into over the mesh.
    """

    height: int
    width: int
    num_frames: int
    scale_range: ScaleRange
    limits: SizeLimits
    convention: Convention = Convention.HF_5
    num_shares: int = 1

    def levels(
        self, rollouts: RolloutConfig, num_allocations: int | None = None
    ) -> SizeLevels | None:
        """The legal sizes of a pair, if encoding each once is less work than each allocation.

        Args:
            num_allocations: of a prompt that share what is encoded; by default all.
        """
        levels = size_levels(self.height, self.width, self.scale_range, self.limits)
        of_all = num_allocations or rollouts.num_allocations, rollouts.token_capacity
        return levels if worth_encoding(levels, -(-self.num_frames // 2), *of_all) else None

    @property
    def least_tokens(self) -> int:
        """Of a pair at the smallest legal size."""
        levels = size_levels(self.height, self.width, self.scale_range, self.limits)
        return int(levels.tokens[0])

    @property
    def most_pixels(self) -> tuple[int, int]:
        """Height and width of the largest legal size."""
        levels = size_levels(self.height, self.width, self.scale_range, self.limits)
        return tuple(int(side.max()) * self.limits.factor for side in levels)


@struct.dataclass
class Draw:
    """Allocations drawn for a batch of prompts; of a prompt's, the largest come first.

    An allocation that asks for more than the capacity is shown as fitted to it, and charged for
    what it asked.
    """

    actions: Float[Array, "B M K"]
    log_probs: Float[Array, "B M K"]  # under the policy that drew them
    scales: Float[Array, "B M K"]  # of the policy's units, as drawn
    unit_mask: Bool[Array, "B K"]
    tokens: Int[Array, "B M"]  # visual tokens that enter the decoder
    fitted: Bool[Array, "B M"]  # asked for more than the capacity
    grid_thw: Int[Array, "B M E 3"]  # in patches; zeros for an absent pair
    level: Int[Array, "B M E"] | None  # of each pair, where every level is encoded

    def some(self, start: int | Int[Array, ""], count: int) -> "Draw":
        """``count`` allocations of every prompt from ``start`` on."""
        parts = {name: value for name, value in vars(self).items() if name != "unit_mask"}
        return self.replace(**some_allocations(parts, start, count))


def some_allocations(tree: PyTree[Array], start: int | Int[Array, ""], count: int) -> PyTree[Array]:
    """``count`` entries of axis 1 from ``start`` on; one compilation serves every start."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, count, axis=1), tree)


class Pass(NamedTuple):
    """Allocations of every prompt that are answered at once."""

    start: int
    capacity: int


def draw_allocations(
    allocation: AllocatorOutput,
    frame_mask: Bool[Array, "B F"],
    key: Key[Array, ""],
    geometry: Geometry,
    rollouts: RolloutConfig,
) -> Draw:
    """M allocations of each prompt from the policy, fitted to the capacity and sorted."""
    actions = allocation.policy.sample(key, rollouts.num_allocations)
    log_probs = allocation.policy.log_prob(actions)
    return fit_allocations(actions, log_probs, allocation.unit_mask, frame_mask, geometry, rollouts)


def fit_allocations(
    actions: Float[Array, "B M K"],
    log_probs: Float[Array, "B M K"],
    unit_mask: Bool[Array, "B K"],
    frame_mask: Bool[Array, "B F"],
    geometry: Geometry,
    rollouts: RolloutConfig,
) -> Draw:
    """The sizes that actions lead to, within the capacity; largest allocations first."""
    scales = to_scale(actions, geometry.scale_range)
    levels, limits, budget = geometry.levels(rollouts), geometry.limits, rollouts.token_capacity
    size = geometry.height, geometry.width
    if levels is not None:
        level, fitted = fit_levels(scales, frame_mask, *size, budget, levels, limits)
        grid_thw = level_grids(level, levels, limits.merge_size)
    else:
        level, pairs = None, pair_mask(frame_mask)
        wanted = scales
        if scales.shape[-1] == frame_mask.shape[-1]:
            wanted = pair_scales(scales, frame_mask)
        grid_thw, fit = jax.vmap(
            lambda some: fit_clips(some, pairs, *size, budget, limits), in_axes=1, out_axes=1
        )(wanted)
        fitted = jnp.any((fit.scales != wanted) & pairs[:, None, :], axis=-1)
    tokens = jnp.sum(jnp.prod(grid_thw, axis=-1), axis=-1) // limits.merge_size**2
    order = jnp.argsort(-tokens, axis=1, stable=True)

    def ordered(x: Array) -> Array:
        return jnp.take_along_axis(x, order.reshape(order.shape + (1,) * (x.ndim - 2)), axis=1)

    parts = (actions, log_probs, scales, tokens, fitted, grid_thw, level)
    actions, log_probs, scales, tokens, fitted, grid_thw, level = jax.tree.map(ordered, parts)
    return Draw(
        actions=actions,
        log_probs=log_probs,
        scales=scales,
        unit_mask=unit_mask,
        tokens=tokens,
        fitted=fitted,
        grid_thw=grid_thw,
        level=level,
    )


def plan_passes(most_tokens: Sequence[int] | np.ndarray, rollouts: RolloutConfig) -> list[Pass]:
    """Which allocations are answered together, on the host.

    Args:
        most_tokens: the most tokens that any prompt's m-th allocation has, for each m.
    """
    ladder, size = rollouts.ladder, rollouts.pass_size
    return [
        Pass(start, ladder.choose(int(most_tokens[start])))
        for start in range(0, len(most_tokens), size)
    ]


def show(
    params: Params,
    config: ModelConfig,
    frames: UInt8[Array, "B F height width 3"],
    encoded: Float[Array, "B KU D"] | None,
    draw: Draw,
    capacity: int,
    geometry: Geometry,
    rollouts: RolloutConfig,
) -> Float[Array, "B M U D"]:
    """Visual tokens of each allocation.

    Args:
        encoded: every pair at every level (`encode_all_levels`); None where allocations are
            encoded one by one.
        capacity: tokens that the largest of them needs.
    """
    if encoded is not None:
        return gather_levels(encoded, draw.level, geometry.levels(rollouts), capacity)
    max_height, max_width = geometry.most_pixels

    def encode(clip: Array, grids: Array) -> Array:
        tokens, _ = encode_pairs(
            params,
            config,
            clip,
            grids,
            capacity=capacity,
            max_height=max_height,
            max_width=max_width,
        )
        return tokens

    # One allocation of every prompt at a time: activations of all would not fit.
    one_of_each = map_rows(encode)
    grids = jnp.moveaxis(draw.grid_thw, 1, 0)
    return jnp.moveaxis(jax.lax.map(lambda some: one_of_each(frames, some), grids), 0, 1)


def encode_all_levels(
    params: Params,
    config: ModelConfig,
    frames: UInt8[Array, "B F height width 3"],
    geometry: Geometry,
    rollouts: RolloutConfig,
    num_allocations: int | None = None,
) -> Float[Array, "B KU D"] | None:
    """What `show` gathers from; None where it encodes allocations one by one.

    Args:
        num_allocations: of a prompt that are gathered from it; by default all.
    """
    levels = geometry.levels(rollouts, num_allocations)
    if levels is None:
        return None
    return encode_levels(params, config, frames, levels, geometry.num_shares)


def answer_allocations(
    params: Params,
    config: ModelConfig,
    visual: Float[Array, "B M U D"],
    draw: Draw,
    prompts: Prompts,
    frame_mask: Bool[Array, "B F"],
    key: Key[Array, ""],
    geometry: Geometry,
    rollouts: RolloutConfig,
) -> Generation:
    """N answers to each allocation that ``visual`` shows; every field [B, M, N, length]."""
    layout, rows = _lay_out_rows(config, visual, draw, prompts, frame_mask, geometry, rollouts)
    generation = generate_from(params, config, layout, rows, rollouts.decoding, key)
    return jax.tree.map(lambda x: _by_prompt(x, draw, rollouts), generation)


def score_allocations(
    params: Params,
    config: ModelConfig,
    visual: Float[Array, "B M U D"],
    draw: Draw,
    prompts: Prompts,
    frame_mask: Bool[Array, "B F"],
    answers: Generation,
    geometry: Geometry,
    rollouts: RolloutConfig,
) -> Float[Array, "B M N T"]:
    """Log-probs of the tokens of given answers (`generation.teacher_forcing`), differentiable."""
    layout, rows = _lay_out_rows(config, visual, draw, prompts, frame_mask, geometry, rollouts)
    token_ids, mask = (
        rearrange(x, "b m n t -> (b m n) t") for x in (answers.token_ids, answers.mask)
    )
    log_probs = answer_log_probs(
        params,
        config,
        layout,
        rows,
        token_ids,
        mask,
        temperature=rollouts.decoding.temperature,
    )
    return _by_prompt(log_probs, draw, rollouts)


def _lay_out_rows(
    config: ModelConfig,
    visual: Float[Array, "B M U D"],
    draw: Draw,
    prompts: Prompts,
    frame_mask: Bool[Array, "B F"],
    geometry: Geometry,
    rollouts: RolloutConfig,
) -> tuple[PromptLayout, Float[Array, "BMN U D"]]:
    """One row for each answer: its layout, and the visual tokens of its allocation."""
    prompts = with_native_grids(prompts, frame_mask, geometry)
    per_prompt = visual.shape[1] * rollouts.num_answers
    rows = jax.tree.map(lambda x: repeat(x, "b ... -> (b m) ...", m=per_prompt), prompts)
    grids, visual = (
        repeat(x, "b m ... -> (b m n) ...", n=rollouts.num_answers) for x in (draw.grid_thw, visual)
    )
    return lay_out(rows, grids, config, visual.shape[1], geometry.convention), visual


def with_native_grids(
    prompts: Prompts, frame_mask: Bool[Array, "B F"], geometry: Geometry
) -> Prompts:
    """Prompts that know the sizes at scale 1, which a convention may ask for."""
    pairs = pair_mask(frame_mask)
    native = native_grids(pairs, geometry.height, geometry.width, geometry.limits)
    return prompts.replace(native_thw=native)


def _by_prompt(x: Any, draw: Draw, rollouts: RolloutConfig) -> Any:
    return x.reshape(*draw.tokens.shape, rollouts.num_answers, *x.shape[1:])
