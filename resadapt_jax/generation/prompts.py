"""Prompts with one placeholder per temporal pair, and their expansion to visual tokens."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from resadapt_jax.models.families import ModelConfig, check_convention
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.prompt_layout import PromptLayout, expand_prompt
from resadapt_jax.typing import Array, Int


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


def common_prefix(prompts: Prompts) -> int:
    """Positions before the first visual entry of any prompt, on the host.

    Allocations of one prompt differ in nothing before its first entry, so this many of their
    positions may be shared; never the last one that the prompts have room for.
    """
    index = np.asarray(prompts.entry_index)[:, :-1]
    present = np.arange(index.shape[1])[None, :] < np.asarray(prompts.compact_length)[:, None]
    return int(np.cumprod((index < 0) & present, axis=1).sum(axis=1).min())
