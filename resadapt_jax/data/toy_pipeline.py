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
from resadapt_jax.data.canvas import segment_ids
from resadapt_jax.data.toy_questions import PROBLEM_TYPES, question_texts
from resadapt_jax.data.toy_source import ToyDialogues
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.models.position_convention import Convention, milliseconds
from resadapt_jax.models.prompt_builder import CompactPrompt, Shown, Turn, build_chat
from resadapt_jax.models.tokenizer import encode_query
from resadapt_jax.typing import Float

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
    num_pictures = record["num_pictures"]
    ids: list[int] = []
    entries: list[int] = []
    answers: list[int] = []
    seconds = pair_seconds(record["times"])
    clock = milliseconds(seconds)
    for question, answer in record["turns"]:
        prompt = build_toy_prompt(tokenizer, question, seconds, num_pictures, convention)
        seconds, num_pictures = seconds[:0], 0  # only the first turn shows the clip
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
        questions = question_texts(world.tasks)
        latest = np.full(world.num_pairs, world.clock_seconds - 0.75)  # takes most tokens to say
        prompts = [
            build_toy_prompt(tokenizer, text, latest, world.num_pictures, convention)
            for text in questions
        ]
        queries = [encode_query(query_tokenizer, text) for text in questions]
        return cls(max(len(prompt.token_ids) for prompt in prompts), max(map(len, queries)))


def build_toy_prompt(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    seconds: Float[np.ndarray, " K"],
    num_pictures: int,
    convention: Convention,
) -> CompactPrompt:
    """A user turn with pictures, then a video, if there are any, then the question.

    Args:
        seconds: of all pairs; the first ``num_pictures`` are pictures.
    """
    pictures = [Shown("image", [time]) for time in seconds[:num_pictures]]
    videos = [Shown("video", seconds[num_pictures:])] if len(seconds) > num_pictures else []
    media = pictures + videos
    marks = "".join(f"<{medium.kind}>" for medium in media)
    return build_chat(tokenizer, [Turn("user", marks + question)], media, convention)


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
    kinds = ["image"] * record["num_pictures"] + ["video"]
    medium = np.minimum(np.arange(len(seconds)), record["num_pictures"])
    segments = segment_ids(kinds, medium)
    prompt = build_toy_prompt(
        tokenizer, record["question"], seconds, record["num_pictures"], convention
    )
    query = encode_query(query_tokenizer, record["question"])
    return {
        "frames": record["frames"],
        "frame_mask": (segments == 0) | (np.arange(len(segments)) % 2 == 0),
        "segment_ids": segments,
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
