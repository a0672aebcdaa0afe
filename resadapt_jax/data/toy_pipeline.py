"""Grain pipelines over the embedded world: source -> token ids -> batches, resumable."""

from typing import Any, Protocol, SupportsIndex

import grain
import numpy as np
from transformers import PreTrainedTokenizerBase

from resadapt_jax.data.toy_source import ToyDialogues
from resadapt_jax.data.toy_world import ToyWorldConfig

VIDEO_PAD = "<|video_pad|>"
# Longest texts of the embedded world in tokens: a pair's header, a turn with its markup, a reply.
HEADER_TOKENS, TURN_TOKENS, ANSWER_TOKENS = 4, 26, 5


def pair_headers(times: np.ndarray) -> str:
    """The visual part of a prompt: each temporal pair in its own wrappers behind its mean time.

    Convention ``hf-5``: ``<t seconds>`` with one decimal, then vision start, placeholder, end.
    """
    seconds = times.reshape(-1, 2).mean(axis=1)
    return "".join(f"<{t:.1f} seconds><|vision_start|>{VIDEO_PAD}<|vision_end|>" for t in seconds)


def entry_index(ids: np.ndarray, pad_id: int) -> np.ndarray:
    """Which visual entry each placeholder stands for, -1 at text."""
    is_pad = ids == pad_id
    return np.where(is_pad, np.cumsum(is_pad) - 1, -1).astype(np.int32)


def pad_to(values: list[int] | np.ndarray, length: int, fill: int) -> np.ndarray:
    """Right-padded int32 vector; a longer one is an error, never cut."""
    if len(values) > length:
        raise ValueError(f"{len(values)} positions do not fit in {length}")
    return np.concatenate([values, np.full(length - len(values), fill)]).astype(np.int32)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str, times: np.ndarray) -> list[int]:
    """Compact ids of a question about the pairs of frames at ``times``, up to the answer."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": pair_headers(times) + question}],
        tokenize=False,
        add_generation_prompt=True,
    )
    return tokenizer.encode(asked)


class Clips(Protocol):
    """A random-access source of one-question records, ``ToyClips`` or ``StoredClips``."""

    config: ToyWorldConfig

    def __len__(self) -> int: ...
    def __getitem__(self, position: SupportsIndex) -> dict[str, Any]: ...


def encode_dialogue(
    record: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    max_compact: int,
    max_answer: int,
) -> dict[str, np.ndarray]:
    """A record of ``ToyDialogues`` as compact ids with the positions of its answer tokens."""
    ids: list[int] = []
    answers: list[int] = []
    for turn, (question, answer) in enumerate(record["turns"]):
        times = record["times"][: None if turn == 0 else 0]  # the first turn shows the clip
        ids += prompt_ids(tokenizer, question, times)
        answer_ids = tokenizer.encode(answer + "<|im_end|>")
        answers += range(len(ids), len(ids) + len(answer_ids))
        ids += answer_ids + tokenizer.encode("\n")
    compact_ids = pad_to(ids, max_compact, tokenizer.pad_token_id)
    return {
        "frames": record["frames"],
        "labels": record["labels"],
        "compact_ids": compact_ids,
        "compact_length": np.int32(len(ids)),
        "entry_index": entry_index(compact_ids, tokenizer.convert_tokens_to_ids(VIDEO_PAD)),
        "answer_index": pad_to(answers, max_answer, -1),
    }


def dialogue_batches(
    source: ToyDialogues, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> grain.DatasetIterator:
    """Batches of dialogues in the source's order; the iterator's state can be saved."""
    max_compact = HEADER_TOKENS * source.config.num_pairs + TURN_TOKENS * source.turns
    max_answer = ANSWER_TOKENS * source.turns

    def encode(record: dict[str, Any]) -> dict[str, np.ndarray]:
        return encode_dialogue(record, tokenizer, max_compact, max_answer)

    return _batches(grain.MapDataset.source(source).map(encode), batch_size)


def encode_question(
    record: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_compact: int
) -> dict[str, Any]:
    """A one-question record as a prompt and as the query that the allocator reads.

    The evidence is left behind: what trains an allocator must not hold it.
    """
    ids = prompt_ids(tokenizer, record["question"], record["times"])
    query = tokenizer.encode(record["question"])
    compact_ids = pad_to(ids, max_compact, tokenizer.pad_token_id)
    return {
        "frames": record["frames"],
        "compact_ids": compact_ids,
        "compact_length": np.int32(len(ids)),
        "entry_index": entry_index(compact_ids, tokenizer.convert_tokens_to_ids(VIDEO_PAD)),
        "query_ids": pad_to(query, TURN_TOKENS, tokenizer.pad_token_id),
        "query_mask": np.arange(TURN_TOKENS) < len(query),
        "task": record["task"],
        "answer": record["answer"],
    }


def question_batches(
    source: Clips, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> grain.DatasetIterator:
    """Batches of one-question prompts in the source's order; the iterator's state can be saved."""
    max_compact = HEADER_TOKENS * source.config.num_pairs + TURN_TOKENS

    def encode(record: dict[str, Any]) -> dict[str, Any]:
        return encode_question(record, tokenizer, max_compact)

    return _batches(grain.MapDataset.source(source).map(encode), batch_size)


def held_out_batches(
    source: Clips, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> grain.DatasetIterator:
    """`question_batches` for evaluation: adds ``index``, ``question``, ``times``, ``evidence``."""
    max_compact = HEADER_TOKENS * source.config.num_pairs + TURN_TOKENS

    def encode(record: dict[str, Any]) -> dict[str, Any]:
        kept = {name: record[name] for name in ("index", "question", "times", "evidence")}
        return kept | encode_question(record, tokenizer, max_compact)

    return _batches(grain.MapDataset.source(source).map(encode), batch_size)


def _batches(dataset: grain.MapDataset, batch_size: int) -> grain.DatasetIterator:
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * batch_size)
    return iter(dataset.to_iter_dataset(options).batch(batch_size, drop_remainder=True))
