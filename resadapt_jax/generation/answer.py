"""From frames and sizes to answers: plan, resize, encode, place, generate. All of it inside jit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from kernels.resize_patchify import PatchSpec, patchify, resize_patchify
from resadapt_jax.errors import UserError
from resadapt_jax.generation.decode import Generation, generate
from resadapt_jax.generation.stopping import stop_tokens
from resadapt_jax.models.convention import Convention
from resadapt_jax.models.families import ModelConfig, check_convention, family_of
from resadapt_jax.models.partition import BATCH, map_rows
from resadapt_jax.models.prompt_layout import PromptLayout, check_placeholders, expand_prompt
from resadapt_jax.models.vision_plan import VisionPlan, plan_vision
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Num, Params


@struct.dataclass
class Prompts:
    """A batch of compact prompts: one placeholder token per temporal pair.

    Attributes:
        compact_ids: right-padded.
        compact_length: valid ids.
        entry_index: the pair behind a placeholder, -1 at text.
        pair_milliseconds: mean time of a pair's frames, for conventions that share an anchor.
        native_thw: grids at scale 1, for ``Convention.RESADAPT_NATIVE``.
    """

    compact_ids: Int[Array, "B C"]
    compact_length: Int[Array, " B"]
    entry_index: Int[Array, "B C"]
    pair_milliseconds: Int[Array, "B K"] | None = None
    native_thw: Int[Array, "B K 3"] | None = None

    @classmethod
    def from_records(cls, records: Mapping[str, Any]) -> "Prompts":
        """Takes its own fields from a batch of the data pipeline."""
        names = ("compact_ids", "compact_length", "entry_index", "pair_milliseconds")
        return cls(**{name: records[name] for name in names})


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How answers are drawn."""

    max_new_tokens: int = 5
    """Longest answer, the end token included."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_k: int | None = None
    """Draw from this many of the likeliest tokens; None from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability (nucleus sampling)."""
    stop_token_ids: tuple[int, ...] = ()
    """End an answer as the model's own end-of-sequence tokens do."""
    prefill_chunk: int | None = None
    """Most prompt positions that run at once, which bounds memory; None runs prompts whole."""
    cache_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Of stored keys and values; None is the activations' own."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        for name in ("top_k", "prefill_chunk"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not self.temperature and (self.top_k is not None or self.top_p < 1):
            raise ValueError("top_k and top_p need a temperature above 0: at 0 nothing is drawn")
        if any(token < 0 for token in self.stop_token_ids):
            raise ValueError(f"stop_token_ids must not be negative, got {self.stop_token_ids}")
        if self.cache_dtype not in (None, "bfloat16", "float16", "float32"):
            raise ValueError(f"cache_dtype must be a floating type, got {self.cache_dtype!r}")


@struct.dataclass
class Answers:
    """What came out, and what went in."""

    generation: Generation
    num_tokens: Int[Array, " B"]  # visual tokens that entered the decoder
    overflow: Bool[Array, " B"]  # more were asked for than the capacity holds


class SourceSizes(NamedTuple):
    """What of each pair's frames is picture, from the top left, in pixels."""

    heights: Int[Array, "*B K"]
    widths: Int[Array, "*B K"]


def plan_pairs(grid_thw: Int[Array, "K 3"], config: ModelConfig, capacity: int) -> VisionPlan:
    """The packed layout of one clip's pairs for a backbone."""
    return plan_vision(
        grid_thw,
        capacity=capacity,
        merge_size=config.vision.spatial_merge_size,
        window_patches=config.vision.window_patches,
    )


def _patch_spec(
    config: ModelConfig, capacity: int, max_height: int, max_width: int, dtype: str
) -> PatchSpec:
    vision = config.vision
    return PatchSpec(
        capacity=capacity,
        max_height=max_height,
        max_width=max_width,
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        mean=vision.image_mean,
        std=vision.image_std,
        dtype=dtype,
    )


def pack_pairs(
    config: ModelConfig,
    frames: Num[Array, "F height width 3"],
    grid_thw: Int[Array, "K 3"],
    *,
    capacity: int,
    max_height: int,
    max_width: int,
    dtype: str = "float32",
    sources: SourceSizes | None = None,
) -> tuple[Float[Array, "P C"], VisionPlan]:
    """Patches of pairs of any legal sizes, as the tower takes them, and their layout.

    Its ``overflow`` also marks sizes beyond the bounds.

    Args:
        grid_thw: (1, rows, cols) in patches per pair; zeros for an absent one.
        capacity: merged tokens that the layout holds.
        max_height, max_width: static bounds of the sizes in pixels.
        dtype: of the patches.
        sources: of frames of differing size on a common canvas; None: each fills it.
    """
    spec = _patch_spec(config, capacity, max_height, max_width, dtype)
    heights, widths = (grid_thw[:, axis] * spec.patch_size for axis in (1, 2))
    source_heights, source_widths = (None, None) if sources is None else sources
    packed = resize_patchify(
        frames,
        heights,
        widths,
        spec,
        source_heights=source_heights,
        source_widths=source_widths,
        batch_axes=BATCH,
    )
    plan = plan_pairs(grid_thw, config, capacity)
    return packed.patches, plan.replace(overflow=plan.overflow | packed.overflow)


def encode_pairs(
    params: Params,
    config: ModelConfig,
    frames: Num[Array, "F height width 3"],
    grid_thw: Int[Array, "K 3"],
    *,
    capacity: int,
    max_height: int,
    max_width: int,
    sources: SourceSizes | None = None,
) -> tuple[Float[Array, "U W"], VisionPlan]:
    """Visual tokens of the pairs that `pack_pairs` lays out; the arguments are the same.

    A row holds all that the decoder takes of a token (``model.encode_visual`` of its family).
    """
    model = family_of(config).model
    patches, plan = pack_pairs(
        config,
        frames,
        grid_thw,
        capacity=capacity,
        max_height=max_height,
        max_width=max_width,
        dtype=model.patch_dtype(params),
        sources=sources,
    )
    return model.encode_visual(params, config, patches, plan), plan


def encode_whole(
    params: Params, config: ModelConfig, frames: Num[Array, "F height width 3"]
) -> Float[Array, "U W"]:
    """Visual tokens of pairs that all keep their own size: as `encode_pairs`, without a resize."""
    vision, model = config.vision, family_of(config).model
    pairs, (height, width) = -(-len(frames) // vision.temporal_patch_size), frames.shape[1:3]
    rows, cols = height // vision.patch_size, width // vision.patch_size
    capacity = pairs * (rows // vision.spatial_merge_size) * (cols // vision.spatial_merge_size)
    spec = _patch_spec(config, capacity, height, width, model.patch_dtype(params))
    grid_thw = jnp.tile(jnp.array([[1, rows, cols]]), (pairs, 1))
    plan = plan_pairs(grid_thw, config, capacity)
    return model.encode_visual(params, config, patchify(frames, spec), plan)


def lay_out(
    prompts: Prompts,
    grid_thw: Int[Array, "B K 3"],
    config: ModelConfig,
    capacity: int,
    convention: Convention = Convention.HF_5,
) -> PromptLayout:
    """Expands a batch of prompts under ``capacity`` visual tokens.

    Every layout has room for all of them behind all of the text: a pair that is absent need not
    have a placeholder, so none is counted on to make room.

    Raises:
        UserError: the model does not number pairs as the convention does.
        ValueError: the prompts lack what the convention needs.
    """
    check_convention(convention, config)
    num_pairs = grid_thw.shape[1]
    # Without a clock that pairs share, each is a single temporal patch at time 0 of its own.
    rate = config.vision.tokens_per_second if convention.shares_anchor else 1
    length = prompts.compact_ids.shape[1] + capacity

    def expand(prompt: Prompts, grids: Array) -> PromptLayout:
        return expand_prompt(
            prompt.compact_ids,
            prompt.compact_length,
            prompt.entry_index,
            grids,
            jnp.ones(num_pairs),
            capacity=length,
            merge_size=config.vision.spatial_merge_size,
            tokens_per_second=rate,
            convention=convention,
            entry_milliseconds=prompt.pair_milliseconds,
            native_thw=prompt.native_thw,
        )

    return jax.vmap(expand)(prompts, grid_thw)


def answer(
    params: Params,
    config: ModelConfig,
    frames: Num[Array, "B F height width 3"],
    grid_thw: Int[Array, "B K 3"],
    prompts: Prompts,
    *,
    capacity: int,
    decoding: DecodingConfig,
    key: Key[Array, ""],
    convention: Convention = Convention.HF_5,
    max_scale: float = 1.0,
) -> Answers:
    """Answers a batch of prompts about clips whose pairs have the sizes of ``grid_thw``.

    One compilation serves every allocation of a capacity.

    Args:
        grid_thw: (1, rows, cols) in patches per pair; zeros for one that a row does not have. A
            row without any is text alone.
        capacity: visual tokens a prompt may use, static.
        convention: how positions are numbered; the prompts were built for it.
        max_scale: static bound of the sizes, as a multiple of the frames' own; those are rounded
            up to whole merged tokens.

    Returns:
        ``overflow`` marks rows that asked for more than ``capacity`` or ``max_scale``; what these
        answer means nothing.

    Raises:
        UserError: outside jit, if the pairs are not those of the frames, a grid is not legal or
            larger than ``max_scale`` allows, or a prompt does not show every pair of its clip
            once; and if nothing would end an answer, or the model does not know the convention.
    """
    vision = config.vision
    token_side = vision.patch_size * vision.spatial_merge_size
    sides = np.array(frames.shape[2:4]) * max_scale / token_side
    max_height, max_width = (int(side) * token_side for side in np.ceil(np.round(sides, 9)))
    most = np.array([max_height, max_width]) // vision.patch_size
    check_pairs(grid_thw, frames.shape[1], vision.temporal_patch_size, most)
    check_placeholders(
        prompts.entry_index, prompts.compact_length, grid_thw, vision.spatial_merge_size
    )

    def encode(clip: Array, grids: Array) -> tuple[Array, VisionPlan]:
        return encode_pairs(
            params,
            config,
            clip,
            grids,
            capacity=capacity,
            max_height=max_height,
            max_width=max_width,
        )

    visual, plan = map_rows(encode)(frames, grid_thw)
    layout = lay_out(prompts, grid_thw, config, capacity, convention)
    generation = generate_from(params, config, layout, visual, decoding, key)
    return Answers(
        generation=generation,
        num_tokens=plan.num_tokens,
        overflow=plan.overflow | layout.overflow,
    )


def check_pairs(
    grid_thw: Int[Array, "B K 3"],
    num_frames: int,
    temporal_patch_size: int,
    most: Int[np.ndarray, "2"],
) -> None:
    """Refuses grids that are not one per pair of frames; under a trace, looks at their number only.

    Args:
        most: rows and columns of patches that a grid may have.

    Raises:
        UserError: another number of grids, one of several temporal patches, or one that is larger.
    """
    pairs = grid_thw.shape[1]
    if pairs != -(-num_frames // temporal_patch_size):
        raise UserError(f"there are grids of {pairs} pairs for {num_frames} frames")
    if isinstance(grid_thw, jax.core.Tracer):
        return
    times = np.asarray(grid_thw)[:, :, 0]
    if times.max() > 1:
        row, pair = np.argwhere(times > 1)[0]
        raise UserError(
            f"prompt {row}: entry {pair} has {times[row, pair]} temporal patches, a pair of frames"
            " is one"
        )
    if (np.asarray(grid_thw)[:, :, 1:] > most).any():
        raise UserError(
            f"a grid exceeds {most[0]} x {most[1]} patches, the frames' own size times max_scale"
        )


def generate_from(
    params: Params,
    config: ModelConfig,
    layout: PromptLayout,
    visual: Float[Array, "B U W"],
    decoding: DecodingConfig,
    key: Key[Array, ""],
    *,
    shared_prefix: int = 0,
    group_size: int = 1,
) -> Generation:
    """Generates after prompts whose visual tokens are rows of ``visual`` (by ``visual_index``).

    Args:
        shared_prefix, group_size: ``group_size`` adjacent rows, such as the allocations of one
            prompt, are equal at their first ``shared_prefix`` positions, which are then run once
            (`common_prefix`, `prefill.prefill`). Worth it behind a long instruction; the embedded
            world's prompts begin with their first pair, so nothing is to be won there.
    """
    return generate(
        params,
        config,
        family_of(config).model.embed_prompt(params, config, layout, visual),
        layout,
        max_new_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        key=key,
        eos_token_ids=stop_tokens(config, decoding.stop_token_ids),
        top_k=decoding.top_k,
        top_p=decoding.top_p,
        chunk_size=decoding.prefill_chunk,
        cache_dtype=decoding.cache_dtype,
        shared_prefix=shared_prefix,
        group_size=group_size,
    )


def common_prefix(prompts: Prompts) -> int:
    """Positions before the first visual entry of any prompt, on the host.

    Allocations of one prompt differ in nothing before its first entry, so this many of their
    positions may be shared; never the last one that the prompts have room for.
    """
    index = np.asarray(prompts.entry_index)[:, :-1]
    present = np.arange(index.shape[1])[None, :] < np.asarray(prompts.compact_length)[:, None]
    return int(np.cumprod((index < 0) & present, axis=1).sum(axis=1).min())
