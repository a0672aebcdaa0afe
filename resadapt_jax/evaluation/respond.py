"""The planned path of `generation.answer`, for a whole batch of clips as one packed sequence.

Scales became grids on the host, so the smallest of a few capacities that holds them is chosen there
and compiled once, the tower's part once for each number of pairs and largest frame too. The tower's
part and the decoder's are compiled apart: their capacities are independent, and methods that show
the same pixels share the tower's.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from resadapt_jax.evaluation.methods import Inputs
from resadapt_jax.generation.answer import (
    Answers,
    DecodingConfig,
    answers_cache_bytes,
    generate_from,
)
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.generation.prompts import Prompts, lay_out
from resadapt_jax.generation.visual import encode_pairs
from resadapt_jax.models.families import ModelConfig
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.prompt_layout import PromptLayout, check_placeholders
from resadapt_jax.operators import CapacityLadder
from resadapt_jax.typing import Array, Bool, Float, Int, Params, UInt8


class Shown(NamedTuple):
    """Clips as the backbone sees them."""

    visual: Float[Array, "B U D"]  # a clip's tokens in the order of its pairs, then zeros
    num_tokens: Int[np.ndarray, " B"]
    overflow: Bool[Array, ""]


def show(
    backbone: Backbone,
    frames: UInt8[Array, "B F height width 3"],
    grid_thw: Int[np.ndarray, "B K 3"],
    ladder: CapacityLadder,
) -> Shown:
    """Resizes and encodes the pairs of every clip.

    Args:
        frames: an even number per clip.
        ladder: capacities for one clip.

    Raises:
        UserError: a clip has more tokens than the largest capacity.
    """
    vision = backbone.config.vision
    order = _shown_first(grid_thw)
    grid_thw = np.take_along_axis(grid_thw, order[..., None], axis=1)
    sides = np.maximum(grid_thw[..., 1:].max(axis=(0, 1)), vision.spatial_merge_size).tolist()
    counts = grid_thw.prod(axis=-1).sum(axis=-1) // vision.spatial_merge_size**2
    ladder.choose(int(counts.max()))  # refuses a clip that has more than any may
    visual, overflow = _encode(
        backbone.params,
        frames,
        order,
        grid_thw,
        config=backbone.config,
        capacity=ladder.times(len(frames)).choose(int(counts.sum())),
        per_clip=ladder.largest,
        max_patches=tuple(sides),
    )
    return Shown(visual, counts, overflow)


def respond(
    backbone: Backbone,
    shown: Shown,
    inputs: Inputs,
    ladder: CapacityLadder,
    decoding: DecodingConfig,
    convention: Convention = Convention.HF_5,
) -> Answers:
    """Answers the prompts about clips that have been shown.

    Raises:
        UserError: a prompt does not show every pair of its clip once.
    """
    prompts, merge_size = inputs.prompts, backbone.config.vision.spatial_merge_size
    check_placeholders(prompts.entry_index, prompts.compact_length, inputs.grid_thw, merge_size)
    most, kept = shown.visual.shape[1], inputs.kept
    if kept is None:
        kept = np.ones((len(shown.num_tokens), most), bool)
        needed = shown.num_tokens.max()
    else:
        kept = np.pad(kept, ((0, 0), (0, most - kept.shape[1])))
        needed = kept.sum(axis=1).max()
    answers = _respond(
        backbone.params,
        shown.visual,
        inputs.grid_thw,
        prompts,
        kept,
        config=backbone.config,
        capacity=ladder.choose(int(needed)),
        decoding=decoding,
        convention=convention,
    )
    return answers.replace(overflow=answers.overflow | shown.overflow)


def _shown_first(grid_thw: Int[np.ndarray, "B K 3"]) -> Int[np.ndarray, "B J"]:
    """The pairs of each clip that have tokens, in order, then others up to the same number.

    What no token comes from need not be resized.
    """
    absent = grid_thw.prod(axis=-1) == 0
    most = max(1, int((~absent).sum(axis=1).max()))
    return np.argsort(absent, axis=1, kind="stable")[:, :most]


@partial(jax.jit, static_argnames=("config", "capacity", "per_clip", "max_patches"))
def _encode(
    params: Params,
    frames: UInt8[Array, "B F height width 3"],
    order: Int[Array, "B J"],
    grid_thw: Int[Array, "B J 3"],
    *,
    config: ModelConfig,
    capacity: int,
    per_clip: int,
    max_patches: tuple[int, int],
) -> tuple[Float[Array, "B U D"], Bool[Array, ""]]:
    """The pairs named in ``order`` in one packed sequence of ``capacity`` tokens, then by clip."""
    rows, cols = max_patches
    pairs = rearrange(frames, "b (k t) h w c -> b k t h w c", t=config.vision.temporal_patch_size)
    pairs = pairs[jnp.arange(len(frames))[:, None], order]
    tokens, plan = encode_pairs(
        params,
        config,
        rearrange(pairs, "b k t h w c -> (b k t) h w c"),
        rearrange(grid_thw, "b k t -> (b k) t"),
        capacity=capacity,
        max_height=rows * config.vision.patch_size,
        max_width=cols * config.vision.patch_size,
    )
    counts = plan.token_count.reshape(len(frames), -1).sum(axis=1)
    place = jnp.arange(per_clip)[None, :]
    row = (jnp.cumsum(counts) - counts)[:, None] + place
    visual = tokens[jnp.minimum(row, capacity - 1)]
    return jnp.where((place < counts[:, None])[..., None], visual, 0), plan.overflow


@partial(jax.jit, static_argnames=("config", "capacity", "decoding", "convention"))
def _respond(
    params: Params,
    visual: Float[Array, "B U D"],
    grid_thw: Int[Array, "B K 3"],
    prompts: Prompts,
    kept: Bool[Array, "B U"],
    *,
    config: ModelConfig,
    capacity: int,
    decoding: DecodingConfig,
    convention: Convention,
) -> Answers:
    layout = lay_out(prompts, grid_thw, config, visual.shape[1], convention)
    length = layout.mask.shape[1] - visual.shape[1] + capacity
    layout = drop_from(layout, kept, length)
    key = jax.random.key(0)
    return Answers(
        generation=generate_from(params, config, layout, visual, decoding, key),
        num_tokens=jnp.sum(layout.mask & (layout.visual_index >= 0), axis=1),
        overflow=layout.overflow,
        cache_bytes=answers_cache_bytes(config, layout, visual, decoding),
    )


def drop_from(layout: PromptLayout, kept: Bool[Array, "B U"], capacity: int) -> PromptLayout:
    """A batch of layouts without the visual tokens that are not ``kept``, ``capacity`` long.

    What stays keeps its position ids, and the answer starts where it would have.
    """
    is_visual = layout.visual_index >= 0
    stays = jnp.take_along_axis(kept, jnp.maximum(layout.visual_index, 0), axis=1)
    stays = layout.mask & (stays | ~is_visual)
    order = jnp.argsort(~stays, axis=1, stable=True)[:, :capacity]
    mask = jnp.take_along_axis(stays, order, axis=1)

    def moved(values: Array, padding: int) -> Array:
        return jnp.where(mask, jnp.take_along_axis(values, order, axis=1), padding)

    position_ids = jnp.take_along_axis(layout.position_ids, order[:, None, :], axis=2)
    length = jnp.sum(stays, axis=1, dtype=jnp.int32)
    return layout.replace(
        token_ids=moved(layout.token_ids, 0),
        visual_index=moved(layout.visual_index, -1),
        position_ids=jnp.where(mask[:, None, :], position_ids, 0),
        mask=mask,
        length=length,
        overflow=layout.overflow | (length > capacity),
    )
