"""A step's rollouts by an external engine: requests made, answers checked and packed."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from resadapt_jax.errors import UserError
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.generation.decode import Generation
from resadapt_jax.generation.prompts import lay_out
from resadapt_jax.generation.stopping import stop_tokens
from resadapt_jax.generation.visual import pack_pairs
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.training.engine import Engine, EngineAnswer, EngineRequest
from resadapt_jax.training.mesh import (
    keep_rows,
    own_device,
    own_rows,
    put_batch,
    replicated,
    to_host,
)
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.rollout import Draw, source_sizes, with_native_grids
from resadapt_jax.training.setting import Setting
from resadapt_jax.typing import Array, Float, Int, Key, Params, Shaped

_MOST_LOG_PROB = 1e-3
"""A log-prob may round above 0."""


def answer_by_engine(
    engine: Engine,
    batch: PromptBatch,
    drawn: Draw,
    key: Key[Array, ""],
    setting: Setting,
    backbone: Backbone,
    mesh: Mesh,
) -> tuple[Generation, Shaped[np.ndarray, "b M N"]]:
    """An engine's answers to all allocations of a step, every field [B, M, N, length], and texts.

    Every process asks for the answers to its own prompts, and has their texts.

    Args:
        backbone: its tokenizer is what reads tokens, or counts a text's.

    Raises:
        UserError: an answer is not what was asked for (`pack_answers`).
    """
    seeds = _draw_seeds(key, shape=drawn.tokens.shape)
    local, grid_thw, tokens, seeds = own_rows((batch, drawn.grid_thw, drawn.tokens, seeds))
    answers = engine.generate(make_requests(local, grid_thw, tokens, seeds, setting))
    packed, texts = pack_answers(answers, tokens.shape, setting, backbone, engine)
    return put_batch(packed, mesh), texts


def hand_over(engine: Engine, params: Params) -> None:
    """Gives an engine the whole backbone, one tensor after another."""
    flat = traverse_util.flatten_dict(params, sep=".")
    weights = ((key, to_host(flat[key])) for key in sorted(flat))
    engine.load_weights(weights)
    for _ in weights:  # gathering takes every process, whatever the engine of one of them leaves
        pass


@partial(jax.jit, static_argnames="shape")
def _draw_seeds(key: Key[Array, ""], *, shape: tuple[int, int]) -> Int[Array, "B M"]:
    return keep_rows(jax.random.randint(key, shape, 0, 2**31 - 1))


def make_requests(
    batch: PromptBatch,
    grid_thw: Int[np.ndarray, "B M E 3"],
    tokens: Int[np.ndarray, "B M"],
    seeds: Int[np.ndarray, "B M"],
    setting: Setting,
) -> Iterator[EngineRequest]:
    """One request per prompt and allocation, a prompt's allocations one after another.

    Args:
        batch, grid_thw, tokens, seeds: of the prompts to ask about, on the host; the middle two as
            in `Draw`.
    """
    here, ladder = own_device(), setting.rollouts.ladder
    num_answers, decoding = _asked(setting)
    patches_per_token = setting.config.vision.spatial_merge_size**2
    for row, (of_prompt, counts, own_seeds) in enumerate(zip(grid_thw, tokens, seeds, strict=True)):
        one = jax.tree.map(lambda x, row=row: x[row : row + 1], batch)
        prompts = one.prompts
        clip = jax.device_put(one, replicated(here))
        for grids, count, seed in zip(of_prompt, counts.tolist(), own_seeds.tolist(), strict=True):
            with jax.set_mesh(here):  # not the run's: other processes make their own
                patches, layout = jax.device_get(
                    _inputs(clip, grids, setting=setting, capacity=ladder.choose(count))
                )
            n, compact = int(layout.length), int(prompts.compact_length[0])
            ids, entry = prompts.compact_ids[0, :compact], prompts.entry_index[0, :compact]
            shown = (entry < 0) | (grids[entry, 0] > 0)
            is_image = np.zeros(len(grids), bool)
            is_image[entry[ids == setting.config.image_token_id]] = True
            of_image = np.repeat(is_image, grids.prod(axis=1))
            patches = patches[: count * patches_per_token]
            token_ids, visual = layout.token_ids[:n], layout.visual_index[:n] >= 0
            kinds = np.where(token_ids == setting.config.image_token_id, 1, 2)
            yield EngineRequest(
                input_ids=token_ids,
                mm_token_type_ids=np.where(visual, kinds, 0),
                position_ids=layout.position_ids[:, :n],
                pixel_values_videos=patches[~of_image],
                video_grid_thw=grids[(grids[:, 0] > 0) & ~is_image],
                pixel_values=patches[of_image],
                image_grid_thw=grids[(grids[:, 0] > 0) & is_image],
                compact_ids=ids[shown],
                num_answers=num_answers,
                decoding=decoding,
                seed=seed,
            )


@partial(jax.jit, static_argnames=("setting", "capacity"))
def _inputs(
    batch: PromptBatch,
    grid_thw: Int[Array, "E 3"],
    *,
    setting: Setting,
    capacity: int,
) -> tuple[Float[Array, "P features"], PromptLayout]:
    """Patches and layout of one prompt, the only row of ``batch``, padded to ``capacity``."""
    config, geometry = setting.config, setting.geometry
    max_height, max_width = geometry.most_pixels
    sources = source_sizes(batch, geometry)
    patches, _ = pack_pairs(
        config,
        batch.frames[0],
        grid_thw,
        capacity=capacity,
        max_height=max_height,
        max_width=max_width,
        sources=jax.tree.map(lambda x: x[0], sources),
    )
    prompts = with_native_grids(batch, geometry)
    layout = lay_out(prompts, grid_thw[None], config, capacity, geometry.convention)
    return patches, jax.tree.map(lambda x: x[0], layout)


def pack_answers(
    answers: Iterable[Iterable[EngineAnswer]],
    shape: tuple[int, int],
    setting: Setting,
    backbone: Backbone,
    engine: Engine,
) -> tuple[Generation, Shaped[np.ndarray, "B M N"]]:
    """Answers as the in-process backbone records its own, every field [B, M, N, length], and texts.

    Args:
        answers: to a request for each of B prompts' M allocations.
        shape: (B, M).
        engine: says what answers have. Log-probs that it does not give are NaN, as nothing may read
            them.

    Raises:
        UserError: another number of answers, or one that is not what was asked for; names it.
    """
    answers, (num_answers, decoding) = _listed(answers, "the engine gave"), _asked(setting)
    if len(answers) != math.prod(shape):
        raise UserError(f"the engine answered {len(answers)} of {math.prod(shape)} requests")
    full = *shape, num_answers, decoding.max_new_tokens
    texts = np.empty(full[:-1], object)
    token_ids, mask = np.zeros(full, np.int32), np.zeros(full, bool)
    log_probs = np.zeros(full, np.float32)
    for (b, m), some in zip(np.ndindex(shape), answers, strict=True):
        name = f"the engine's answers to prompt {b}, allocation {m}"
        some = _listed(some, f"{name}:")
        if len(some) != num_answers:
            raise UserError(f"{name}: {len(some)} of {num_answers}")
        for n, answer in enumerate(some):
            try:
                ids, scores, text = _read(answer, decoding, backbone, engine)
            except (TypeError, ValueError) as error:
                raise UserError(f"{name}, answer {n}: {error}") from error
            place = b, m, n, slice(len(ids))
            token_ids[place], log_probs[place], mask[place] = ids, scores, True
            texts[b, m, n] = text
    packed = Generation(token_ids=token_ids, log_probs=log_probs, mask=mask)
    return packed, texts


def _asked(setting: Setting) -> tuple[int, DecodingConfig]:
    """How many answers to a request, and how they are drawn; with all stop tokens."""
    decoding = setting.rollouts.decoding
    stops = stop_tokens(setting.config, decoding.stop_token_ids)
    return setting.rollouts.num_answers, replace(decoding, stop_token_ids=stops)


def _listed(values: Any, name: str) -> list:
    if not isinstance(values, Iterable):
        raise UserError(f"{name} a {type(values).__name__} where a list was asked for")
    return list(values)


def _read(
    answer: EngineAnswer, decoding: DecodingConfig, backbone: Backbone, engine: Engine
) -> tuple[Int[np.ndarray, " t"], Float[np.ndarray, " t"] | float, str]:
    """Tokens, log-probs and text of one answer."""
    if not isinstance(answer, EngineAnswer):
        raise ValueError(f"a {type(answer).__name__} is no EngineAnswer")
    text = answer.text
    if not isinstance(text, str | None):
        raise ValueError(f"text is a {type(text).__name__}")
    if not engine.gives_token_ids:
        if text is None:
            raise ValueError("no text, though the engine's gives_token_ids is False")
        ids = backbone.tokenizer.encode(text, add_special_tokens=False)
        ids = [*ids, decoding.stop_token_ids[0]][: decoding.max_new_tokens]
        return np.asarray(ids, np.int32), np.nan, text
    if answer.token_ids is None:
        raise ValueError("no token_ids, though the engine's gives_token_ids is True")
    ids = _checked_ids(answer, backbone.config.text.vocab_size, decoding)
    log_probs = _checked_log_probs(answer, len(ids)) if engine.gives_log_probs else np.nan
    return ids, log_probs, backbone.decode(ids) if text is None else text


def _checked_ids(
    answer: EngineAnswer, vocab_size: int, decoding: DecodingConfig
) -> Int[np.ndarray, " t"]:
    ids, most = np.asarray(answer.token_ids), decoding.max_new_tokens
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(f"token_ids are no row of integers, their shape is {ids.shape}")
    if len(ids) > most:
        raise ValueError(f"{len(ids)} tokens, max_new_tokens is {most}")
    if (outside := ids[(ids < 0) | (ids >= vocab_size)]).size:
        raise ValueError(f"token {outside[0]} is outside {vocab_size} tokens")
    ends = np.isin(ids, decoding.stop_token_ids)
    if ends[:-1].any():
        raise ValueError(f"goes on behind stop token {ids[ends][0]}")
    if len(ids) < most and not ends.any():
        raise ValueError(
            f"ends after {len(ids)} of {most} tokens without a stop token, one of "
            f"{decoding.stop_token_ids}"
        )
    return ids


def _checked_log_probs(answer: EngineAnswer, length: int) -> Float[np.ndarray, " t"]:
    if answer.log_probs is None:
        raise ValueError("no log_probs, though the engine's gives_log_probs is True")
    log_probs = np.asarray(answer.log_probs, np.float32)
    if log_probs.shape != (length,):
        raise ValueError(f"{length} tokens with log_probs of shape {log_probs.shape}")
    wrong = ~np.isfinite(log_probs) | (log_probs > _MOST_LOG_PROB)
    if wrong.any():
        raise ValueError(f"log_probs are not finite and at most 0: {log_probs[wrong][0]}")
    return log_probs
