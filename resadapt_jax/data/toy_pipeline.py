"""Grain pipelines over the embedded world: source -> token ids -> batches, resumable."""

from typing import Any, NamedTuple, Protocol, SupportsIndex

import grain
import numpy as np
from transformers import PreTrainedTokenizerBase

from resadapt_jax.data.batches import (
    ALONE,
    BatchIterator,
    HostShare,
    Share,
    pad_to,
    pair_seconds,
)
from resadapt_jax.data.toy_source import ToyDialogues
from resadapt_jax.data.toy_world import (
    COLOURS,
    PROBLEM_TYPES,
    TASKS,
    ToyWorldConfig,
    question_text,
)
from resadapt_jax.models.convention import Convention, milliseconds
from resadapt_jax.models.prompt_text import build_prompt
from resadapt_jax.models.tokenizer import encode_query

# Longest texts of a dialogue in the toy tokenizer's tokens: a pair's header, a turn, a reply.
HEADER_TOKENS, TURN_TOKENS, ANSWER_TOKENS = 4, 26, 5


class ClipSource(Protocol):
    """A random-access source of one-question records, ``ToyClips`` or ``StoredClips``."""

    config: ToyWorldConfig

    def __len__(self) -> int: ...
    def __getitem__(self, position: SupportsIndex) -> dict[str, Any]: ...


def encode_dialogue(
    record: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    max_compact: int,
    max_answer: int,
    convention: Convention,
) -> dict[str, np.ndarray]:
    """A record of ``ToyDialogues`` as compact ids with the positions of its answer tokens."""
    ids: list[int] = []
    entries: list[int] = []
    answers: list[int] = []
    seconds = pair_seconds(record["times"])
    clock = milliseconds(seconds)
    for question, answer in record["turns"]:
        prompt = build_prompt(tokenizer, question, seconds, convention)
        seconds = seconds[:0]  # only the first turn shows the clip
        ids += prompt.token_ids.tolist()
        entries += prompt.entry_index.tolist()
        answer_ids = tokenizer.encode(answer + "<|im_end|>")
        answers += range(len(ids), len(ids) + len(answer_ids))
        ids += answer_ids + tokenizer.encode("\n")
        entries += [-1] * (len(ids) - len(entries))
    return {
        "frames": record["frames"],
        "labels": record["labels"],
        "compact_ids": pad_to(ids, max_compact, tokenizer.pad_token_id),
        "compact_length": np.int32(len(ids)),
        "entry_index": pad_to(entries, max_compact, -1),
        "pair_milliseconds": clock,
        "answer_index": pad_to(answers, max_answer, -1),
    }


def dialogue_batches(
    source: ToyDialogues,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    convention: Convention = Convention.HF_5,
) -> BatchIterator:
    """Batches of dialogues in the source's order; the iterator's state can be saved."""
    max_compact = HEADER_TOKENS * source.config.num_pairs + TURN_TOKENS * source.turns
    max_answer = ANSWER_TOKENS * source.turns

    def encode(record: dict[str, Any]) -> dict[str, np.ndarray]:
        return encode_dialogue(record, tokenizer, max_compact, max_answer, convention)

    return BatchIterator(grain.MapDataset.source(source).map(encode), batch_size)


class Room(NamedTuple):
    """Tokens that any question about a clip needs at most."""

    prompt: int
    query: int

    @classmethod
    def measure(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        query_tokenizer: PreTrainedTokenizerBase,
        world: ToyWorldConfig,
        convention: Convention,
    ) -> "Room":
        """Of a backbone's prompts and of an encoder's queries, whatever their tokenizers."""
        questions = [question_text(task, colour) for task in TASKS for colour in COLOURS]
        latest = [world.clock_seconds - 0.75] * world.num_pairs  # the longest time that can be said
        prompts = [build_prompt(tokenizer, text, latest, convention) for text in questions]
        queries = [encode_query(query_tokenizer, text) for text in questions]
        return cls(max(len(prompt.token_ids) for prompt in prompts), max(map(len, queries)))


def encode_question(
    record: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    query_tokenizer: PreTrainedTokenizerBase,
    room: Room,
    convention: Convention,
) -> dict[str, Any]:
    """A one-question record as a prompt and as the query that the allocator's encoder reads.

    The evidence is left behind: what trains an allocator must not hold it.
    """
    seconds = pair_seconds(record["times"])
    prompt = build_prompt(tokenizer, record["question"], seconds, convention)
    query = encode_query(query_tokenizer, record["question"])
    return {
        "frames": record["frames"],
        "frame_mask": np.ones(len(record["frames"]), bool),
        "segment_ids": np.zeros(len(record["frames"]), np.int32),
        "native_index": np.zeros(len(seconds), np.int32),
        "valid": np.True_,
        "compact_ids": pad_to(prompt.token_ids, room.prompt, 0),
        "compact_length": np.int32(len(prompt.token_ids)),
        "entry_index": pad_to(prompt.entry_index, room.prompt, -1),
        "pair_milliseconds": milliseconds(seconds),
        "query_ids": pad_to(query, room.query, 0),
        "query_mask": np.arange(room.query) < len(query),
        "question": record["question"],
        "problem_type": PROBLEM_TYPES[record["task"]],
        "answer": record["answer"],
        "skipped": "",
        "damage": "",
    }


def question_batches(
    source: ClipSource,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    convention: Convention = Convention.HF_5,
    query_tokenizer: PreTrainedTokenizerBase | None = None,
    share: HostShare = ALONE,
) -> BatchIterator:
    """Batches of one-question prompts in the source's order; the iterator's state can be saved.

    Args:
        tokenizer: of the backbone.
        batch_size: prompts of a batch, in all processes together.
        query_tokenizer: of the allocator's encoder; ``None``: the backbone's serves both.
        share: which rows of each batch come.
    """
    query_tokenizer = tokenizer if query_tokenizer is None else query_tokenizer
    room = Room.measure(tokenizer, query_tokenizer, source.config, convention)

    def encode(record: dict[str, Any]) -> dict[str, Any]:
        return encode_question(record, tokenizer, query_tokenizer, room, convention)

    rows = Share(source, batch_size, share)
    return BatchIterator(grain.MapDataset.source(rows).map(encode), batch_size // share.count)


def held_out_batches(
    source: ClipSource,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    convention: Convention = Convention.HF_5,
    query_tokenizer: PreTrainedTokenizerBase | None = None,
) -> BatchIterator:
    """`question_batches` for evaluation: adds ``index``, ``task``, ``times``, ``evidence``."""
    query_tokenizer = tokenizer if query_tokenizer is None else query_tokenizer
    room = Room.measure(tokenizer, query_tokenizer, source.config, convention)

    def encode(record: dict[str, Any]) -> dict[str, Any]:
        kept = {name: record[name] for name in ("index", "task", "times", "evidence")}
        return kept | encode_question(record, tokenizer, query_tokenizer, room, convention)

    return BatchIterator(grain.MapDataset.source(source).map(encode), batch_size)
