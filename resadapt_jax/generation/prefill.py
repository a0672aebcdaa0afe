"""Prompts into the cache: in chunks if they are long, once for what several rows begin with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resadapt_jax.generation.chunks import in_chunks, num_chunks
from resadapt_jax.models.families import ModelConfig, family_of
from resadapt_jax.models.kv_cache import KVCache
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.typing import Array, Bool, Float, Int, Params, PyTree


class _Positions(NamedTuple):
    """Prompts or a part of them: axis 1 of every array counts positions."""

    embeds: PyTree
    position_ids: Int[Array, "B T 3"]
    mask: Bool[Array, "B T"]
    is_last: Bool[Array, "B T"]


class _Progress(NamedTuple):
    """What has been run; ``last`` holds the hidden state of each row's last position, once seen."""

    last: Float[Array, "B D"]
    cache: KVCache


def cache_slots(
    length: int, new_tokens: int, chunk_size: int | None = None, shared_prefix: int = 0
) -> int:
    """Slots that prompts of static length ``length`` and their answers take in the cache.

    An answer's last token is never fed back, so it takes none. With them, `kv_cache.cache_bytes`
    says what a batch will need.
    """
    prompt = sum(_padded(n, chunk_size) for n in (shared_prefix, length - shared_prefix))
    return prompt + new_tokens - 1


def prefill(
    params: Params,
    config: ModelConfig,
    embeds: PyTree,
    layout: PromptLayout,
    *,
    new_tokens: int,
    chunk_size: int | None = None,
    cache_dtype: DTypeLike | None = None,
    shared_prefix: int = 0,
    group_size: int = 1,
) -> tuple[Float[Array, "B D"], KVCache]:
    """Runs a batch of embedded prompts through the decoder.

    Args:
        embeds: what the family's ``model.embed_prompt`` gave for ``layout``.
        new_tokens: how many will be generated; static, as are all that follow.
        chunk_size: most positions that go through the decoder at once. A chunk's queries are
            scored against all slots, so memory grows with ``chunk_size`` times the prompt instead
            of its square. Chunks are of equal size, which leaves less than one slot a chunk
            unused. ``None`` takes prompts whole.
        cache_dtype: of the stored keys and values; ``None`` is the activations' own.
        shared_prefix: positions at which the rows of a group are equal. Keys and values depend on
            nothing behind them, so the group computes these once.
        group_size: adjacent rows that make a group.

    Returns:
        Hidden state of each row's last position, and the cache with room for the new tokens.

    Raises:
        ValueError: the prefix is not shorter than the prompts, or the rows make no whole groups.
    """
    batch, length = layout.mask.shape
    if not 0 <= shared_prefix < length:
        raise ValueError(f"shared_prefix must be in [0, {length}), got {shared_prefix}")
    if batch % group_size:
        raise ValueError(f"{batch} rows make no groups of {group_size}")
    prompts = _Positions(
        embeds=embeds,
        position_ids=layout.position_ids.swapaxes(1, 2),
        mask=layout.mask,
        is_last=jnp.arange(length)[None, :] == layout.length[:, None] - 1,
    )
    dtype = jax.tree.leaves(embeds)[0].dtype

    def start(rows: int, slots: int) -> _Progress:
        last = jnp.zeros((rows, config.text.hidden_size), dtype)
        return _Progress(last, KVCache.empty(config.text, rows, slots, cache_dtype or dtype))

    slots = cache_slots(length, new_tokens, chunk_size, shared_prefix)
    if not shared_prefix:
        return _run(params, config, prompts, start(batch, slots), chunk_size)
    # The first of each group, by a reshape, which a mesh that splits the rows does by itself.
    prefix = jax.tree.map(
        lambda x: x.reshape(-1, group_size, *x.shape[1:])[:, 0, :shared_prefix], prompts
    )
    rest = jax.tree.map(lambda x: x[:, shared_prefix:], prompts)
    prefix_slots = _padded(shared_prefix, chunk_size)
    last, cache = _run(params, config, prefix, start(batch // group_size, prefix_slots), chunk_size)
    progress = _Progress(
        last=jnp.repeat(last, group_size, axis=0),
        cache=cache.repeat(group_size).extend(slots - prefix_slots),
    )
    return _run(params, config, rest, progress, chunk_size)


def _run(
    params: Params,
    config: ModelConfig,
    prompts: _Positions,
    progress: _Progress,
    chunk_size: int | None,
) -> _Progress:
    """Continues with the positions given, a chunk at a time."""

    def run(progress: _Progress, chunk: _Positions) -> tuple[_Progress, None]:
        position_ids = chunk.position_ids.swapaxes(1, 2)
        hidden, cache = family_of(config).model.run_decoder(
            params, config, chunk.embeds, position_ids, chunk.mask, progress.cache
        )
        found = hidden[jnp.arange(len(hidden)), jnp.argmax(chunk.is_last, axis=1)]
        here = jnp.any(chunk.is_last, axis=1)[:, None]
        last = jnp.where(here, found.astype(progress.last.dtype), progress.last)
        return _Progress(last, cache), None

    count = num_chunks(prompts.mask.shape[1], chunk_size)
    if count == 1:
        return run(progress, prompts)[0]
    return jax.lax.scan(run, progress, in_chunks(prompts, count))[0]


def _padded(length: int, chunk_size: int | None) -> int:
    """``length`` rounded up to chunks of equal size, none larger than ``chunk_size``."""
    count = num_chunks(length, chunk_size)
    return -(-length // count) * count if length else 0
