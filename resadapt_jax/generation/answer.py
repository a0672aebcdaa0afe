"""From frames and sizes to answers, inside jit: encode, place among the text, generate."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from flax import struct

from resadapt_jax.generation.decode import Generation, generate
from resadapt_jax.generation.prefill import cache_slots
from resadapt_jax.generation.prompts import Prompts, lay_out
from resadapt_jax.generation.stopping import stop_tokens
from resadapt_jax.generation.visual import check_pairs, encode_pairs
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.kv_cache import cache_bytes
from resadapt_jax.models.partition import map_rows
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.prompt_layout import PromptLayout, check_placeholders
from resadapt_jax.models.vision_plan import VisionPlan
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Num, Params


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
    cache_bytes: int = struct.field(pytree_node=False)  # of the whole batch's keys and values


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
        cache_bytes=answers_cache_bytes(config, layout, visual, decoding),
    )


def answers_cache_bytes(
    config: ModelConfig,
    layout: PromptLayout,
    visual: Float[Array, "B U W"],
    decoding: DecodingConfig,
) -> int:
    """What the keys and values of a batch and its answers take (`kv_cache.cache_bytes`)."""
    rows, length = layout.mask.shape
    slots = cache_slots(length, decoding.max_new_tokens, decoding.prefill_chunk)
    return cache_bytes(config.text, rows, slots, decoding.cache_dtype or visual.dtype)


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
        shared_prefix, group_size: ``group_size`` adjacent rows are equal at their first
            ``shared_prefix`` positions, which are then run once (`prefill.prefill`): of several
            answers to one allocation all but the prompt's last, of a prompt's allocations what
            precedes its first pair (`prompts.common_prefix`).
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
