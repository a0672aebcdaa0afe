"""The prompts of a run, opened as its config says."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from transformers import PreTrainedTokenizerBase

from resadapt_jax.data.batches import BatchIterator, HostShare
from resadapt_jax.data.corpus import CorpusConfig, open_corpus
from resadapt_jax.data.toy_pipeline import Room, question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.data.toy_world import FRAMES_PER_SECOND, ToyWorldConfig
from resadapt_jax.errors import UserError
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.corpus_prompts import RowEncoder
from resadapt_jax.training.mesh import sum_over_processes


class PromptData(NamedTuple):
    """The prompts of a run, and what is known of them before the first comes.

    Attributes:
        batches: of this process, from the start.
        native_sizes: height and width in pixels of any frame that comes.
        num_pairs: most temporal pairs of a prompt.
        prompt_tokens: of the longest prompt, before its visual tokens.
        fps: frames sampled per second.
        max_frames: of a video.
        report: what is known of the prompts, lines to print.
        dropped: rows of files that cannot be used, of JSON's types.
    """

    batches: BatchIterator
    native_sizes: tuple[tuple[int, int], ...]
    num_pairs: int
    prompt_tokens: int
    fps: float
    max_frames: int
    report: str = ""
    dropped: Sequence[Mapping[str, Any]] = ()


def open_data(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    query_tokenizer: PreTrainedTokenizerBase,
) -> PromptData:
    """This process's share of the prompts.

    Args:
        tokenizer: of the backbone.
        query_tokenizer: of the allocator's encoder.

    Raises:
        UserError: files that cannot be read, no row that can be used, or a problem type that nobody
            knows.
    """
    share = HostShare(jax.process_index(), jax.process_count())
    match config.data:
        case ToyWorldConfig():
            return _open_world(config, config.data, tokenizer, query_tokenizer, share)
        case CorpusConfig():
            return _open_files(config, config.data, tokenizer, query_tokenizer, share)


def _open_world(
    config: TrainConfig,
    world: ToyWorldConfig,
    tokenizer: PreTrainedTokenizerBase,
    query_tokenizer: PreTrainedTokenizerBase,
    share: HostShare,
) -> PromptData:
    source = ToyClips(world, config.num_steps * config.batch_size)
    room = Room.measure(tokenizer, query_tokenizer, world, config.convention)
    return PromptData(
        batches=question_batches(
            source, tokenizer, config.batch_size, config.convention, query_tokenizer, share
        ),
        native_sizes=world.native_sizes,
        num_pairs=world.num_pairs,
        prompt_tokens=room.prompt,
        fps=FRAMES_PER_SECOND,
        max_frames=world.num_frames,
    )


def _open_files(
    config: TrainConfig,
    files: CorpusConfig,
    tokenizer: PreTrainedTokenizerBase,
    query_tokenizer: PreTrainedTokenizerBase,
    share: HostShare,
) -> PromptData:
    encoder = RowEncoder(
        tokenizer=tokenizer,
        query_tokenizer=query_tokenizer,
        convention=config.convention,
        instruction=config.instruction,
        grading=config.rewards,
    )
    corpus = open_corpus(
        files,
        config.limits,
        encoder.count_tokens,
        encoder.check,
        batch_size=config.batch_size,
        num_batches=config.num_steps,
        seed=config.seed,
        share=share,
        encode=encoder,
        settings=encoder.settings(),
    )
    _require_alike(corpus.fingerprint)
    return PromptData(
        batches=corpus.batches,
        native_sizes=corpus.native_sizes,
        num_pairs=max(shape.num_frames for shape in corpus.shapes) // 2,
        prompt_tokens=max(shape.prompt_tokens for shape in corpus.shapes),
        fps=files.sampling.fps,
        max_frames=files.sampling.max_frames,
        report=corpus.report,
        dropped=corpus.dropped,
    )


def _require_alike(fingerprint: str) -> None:
    """Refuses processes that read different rows.

    Raises:
        UserError: they do.
    """
    digits = np.array([int(digit, 16) for digit in fingerprint], np.float64)
    if (sum_over_processes(digits) != jax.process_count() * digits).any():
        raise UserError("the processes do not read the same rows: are their files the same?")
