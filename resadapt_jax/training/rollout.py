"""Rollouts: M allocations drawn for each prompt, N answers to each, batched by capacity.

The allocations of a prompt are sorted by their tokens, most first. Those that stand at the same
places in all prompts are answered together, under the smallest capacity that holds them: batches
keep a row for every prompt, so they stay split over a mesh, and little of them is padding.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import struct

from resadapt_jax.allocator import AllocatorOutput, pair_mask, pair_scales
from resadapt_jax.allocator.policy import to_scale
from resadapt_jax.generation.answer import generate_from
from resadapt_jax.generation.decode import Generation
from resadapt_jax.generation.prompts import Prompts, lay_out
from resadapt_jax.generation.teacher_forcing import answer_log_probs
from resadapt_jax.generation.visual import SourceSizes, encode_pairs
from resadapt_jax.models.partition import map_rows
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.operators import fit_clips, grid_tokens, native_grids
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.setting import Geometry, Setting
from resadapt_jax.training.size_levels import encode_levels, fit_levels, gather_levels, level_grids
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params, PyTree


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
    allocation: AllocatorOutput, batch: PromptBatch, key: Key[Array, ""], setting: Setting
) -> Draw:
    """M allocations of each prompt from the policy, fitted to the capacity and sorted."""
    actions = allocation.policy.sample(key, setting.rollouts.num_allocations)
    log_probs = allocation.policy.log_prob(actions)
    return fit_allocations(actions, log_probs, allocation.unit_mask, batch, setting)


def fit_allocations(
    actions: Float[Array, "B M K"],
    log_probs: Float[Array, "B M K"],
    unit_mask: Bool[Array, "B K"],
    batch: PromptBatch,
    setting: Setting,
) -> Draw:
    """The sizes that actions lead to, within the capacity; largest allocations first."""
    geometry, budget = setting.geometry, setting.rollouts.token_capacity
    scales, pairs = to_scale(actions, geometry.scale_range), pair_mask(batch.frame_mask)
    wanted, native = scales, geometry.native(batch.native_index)
    if scales.shape[-1] == batch.frame_mask.shape[-1]:
        wanted = pair_scales(scales, batch.frame_mask)
    merge_size, levels = geometry.limits.merge_size, setting.levels(pairs.shape[1])
    if levels is not None:
        level, fitted = fit_levels(wanted, pairs, native, budget, levels)
        grid_thw = level_grids(level, levels, merge_size)
    else:
        level = None
        grid_thw, fit = jax.vmap(
            lambda some: fit_clips(some, pairs, native, budget), in_axes=1, out_axes=1
        )(wanted)
        fitted = jnp.any((fit.scales != wanted) & pairs[:, None, :], axis=-1)
    tokens = jnp.sum(grid_tokens(grid_thw, merge_size), axis=-1)
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
    batch: PromptBatch,
    encoded: Float[Array, "B KU W"] | None,
    draw: Draw,
    capacity: int,
    setting: Setting,
) -> Float[Array, "B M U W"]:
    """Visual tokens of each allocation.

    Args:
        encoded: every pair at every level (`encode_all_levels`); None where allocations are
            encoded one by one.
        capacity: tokens that the largest of them needs.
    """
    if encoded is not None:
        (levels,) = setting.geometry.levels
        return gather_levels(encoded, draw.level, levels, capacity)
    max_height, max_width = setting.geometry.most_pixels

    def encode(clip: Array, sources: SourceSizes | None, grids: Array) -> Array:
        tokens, _ = encode_pairs(
            params,
            setting.config,
            clip,
            grids,
            capacity=capacity,
            max_height=max_height,
            max_width=max_width,
            sources=sources,
        )
        return tokens

    # One allocation of every prompt at a time: activations of all would not fit.
    one_of_each, sources = map_rows(encode), source_sizes(batch, setting.geometry)
    grids = jnp.moveaxis(draw.grid_thw, 1, 0)
    shown = jax.lax.map(lambda some: one_of_each(batch.frames, sources, some), grids)
    return jnp.moveaxis(shown, 0, 1)


def source_sizes(batch: PromptBatch, geometry: Geometry) -> SourceSizes | None:
    """What of each frame is picture; None where all of every frame is."""
    if geometry.native_sizes == (batch.frames.shape[2:4],):
        return None
    native = geometry.native(batch.native_index)
    return SourceSizes(native.heights, native.widths)


def encode_all_levels(
    params: Params, batch: PromptBatch, setting: Setting, num_allocations: int | None = None
) -> Float[Array, "B KU W"] | None:
    """What `show` gathers from; None where it encodes allocations one by one.

    Args:
        num_allocations: of a prompt that are gathered from it; by default all.
    """
    levels = setting.levels(batch.num_pairs, num_allocations)
    if levels is None:
        return None
    num_shares = setting.geometry.num_shares
    return encode_levels(params, setting.config, batch.frames, levels, num_shares)


def answer_allocations(
    params: Params,
    visual: Float[Array, "B M U W"],
    draw: Draw,
    batch: PromptBatch,
    key: Key[Array, ""],
    setting: Setting,
) -> Generation:
    """N answers to each allocation that ``visual`` shows; every field [B, M, N, length]."""
    layout, rows = _lay_out_rows(visual, draw, batch, setting)
    rollouts = setting.rollouts
    generation = generate_from(
        params,
        setting.config,
        layout,
        rows,
        rollouts.decoding,
        key,
        shared_prefix=rollouts.shared_prefix(layout.mask.shape[1]),
        group_size=rollouts.num_answers,
    )
    return jax.tree.map(lambda x: _by_prompt(x, draw, setting), generation)


def score_allocations(
    params: Params,
    visual: Float[Array, "B M U W"],
    draw: Draw,
    batch: PromptBatch,
    answers: Generation,
    setting: Setting,
) -> Float[Array, "B M N T"]:
    """Log-probs of the tokens of given answers (`generation.teacher_forcing`), differentiable."""
    layout, rows = _lay_out_rows(visual, draw, batch, setting)
    token_ids, mask = (
        rearrange(x, "b m n t -> (b m n) t") for x in (answers.token_ids, answers.mask)
    )
    log_probs = answer_log_probs(
        params,
        setting.config,
        layout,
        rows,
        token_ids,
        mask,
        temperature=setting.rollouts.decoding.temperature,
    )
    return _by_prompt(log_probs, draw, setting)


def _lay_out_rows(
    visual: Float[Array, "B M U W"], draw: Draw, batch: PromptBatch, setting: Setting
) -> tuple[PromptLayout, Float[Array, "BMN U W"]]:
    """One row for each answer: its layout, and the visual tokens of its allocation."""
    num_answers, convention = setting.rollouts.num_answers, setting.geometry.convention
    prompts = with_native_grids(batch, setting.geometry)
    per_prompt = visual.shape[1] * num_answers
    rows = jax.tree.map(lambda x: repeat(x, "b ... -> (b m) ...", m=per_prompt), prompts)
    grids, visual = (
        repeat(x, "b m ... -> (b m n) ...", n=num_answers) for x in (draw.grid_thw, visual)
    )
    return lay_out(rows, grids, setting.config, visual.shape[1], convention), visual


def with_native_grids(batch: PromptBatch, geometry: Geometry) -> Prompts:
    """The batch's prompts, told the sizes at scale 1, which a convention may ask for."""
    native = geometry.native(batch.native_index)
    return batch.prompts.replace(native_thw=native_grids(pair_mask(batch.frame_mask), native))


def _by_prompt(x: Any, draw: Draw, setting: Setting) -> Any:
    return x.reshape(*draw.tokens.shape, setting.rollouts.num_answers, *x.shape[1:])
