"""A batch of held-out clips, with what only the oracle and the plots may know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from resadapt_jax.data.batches import pad_to
from resadapt_jax.data.toy_pipeline import build_toy_prompt
from resadapt_jax.data.toy_signs import COLOURS
from resadapt_jax.generation.prompts import Prompts
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.operators import NativeSizes, SizeLimits
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.typing import Bool, Float, Int


@dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """Held-out clips with one question each.

    Attributes:
        batch: all that allocator and backbone may see.
        index: number of each clip in its source.
        questions, tasks, problem_types, answers: strings, one per clip.
        times: seconds of each frame.
        evidence: pairs that show the answer. Only the oracle and the plots read it.
    """

    batch: PromptBatch
    index: Int[np.ndarray, " B"]
    questions: list[str]
    tasks: list[str]
    problem_types: list[str]
    answers: list[str]
    times: Float[np.ndarray, "B F"]
    evidence: Bool[np.ndarray, "B K"]

    @classmethod
    def from_records(cls, records: dict[str, Any]) -> "Clips":
        """Takes a batch of ``data.toy_pipeline.held_out_batches``."""
        return cls(
            batch=PromptBatch.from_records(records),
            index=np.asarray(records["index"]),
            questions=[str(question) for question in records["question"]],
            tasks=[str(task) for task in records["task"]],
            problem_types=[str(kind) for kind in records["problem_type"]],
            answers=[str(answer) for answer in records["answer"]],
            times=records["times"],
            evidence=records["evidence"],
        )

    def __len__(self) -> int:
        return len(self.index)

    @property
    def num_pairs(self) -> int:
        return self.evidence.shape[1]

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.batch.frames.shape[2:4]

    def native(self, limits: SizeLimits) -> NativeSizes:
        """The size of all frames."""
        return NativeSizes.alike(*self.frame_size, limits)

    @property
    def pictures(self) -> Bool[np.ndarray, "B K"]:
        """Pairs that are still pictures."""
        return np.asarray(self.batch.segment_ids[:, ::2] > 0)

    @property
    def seconds(self) -> Float[np.ndarray, "B K"]:
        """Mean time of each pair."""
        return self.times.reshape(len(self), -1, 2).mean(axis=2)


def prompts_showing(
    clips: Clips,
    shown: Bool[np.ndarray, "B K"],
    tokenizer: PreTrainedTokenizerBase,
    convention: Convention = Convention.HF_5,
) -> Prompts:
    """The clips' prompts with the headers and placeholders of the pairs ``shown`` alone.

    Entries keep their numbers, so the grids of a clip still have one row per pair.
    """
    length = clips.batch.prompts.compact_ids.shape[1]
    compact_ids, lengths, entries = [], [], []
    rows = zip(clips.questions, clips.seconds, clips.pictures & shown, shown, strict=True)
    for question, seconds, pictures, pairs in rows:
        prompt = build_toy_prompt(
            tokenizer, question, seconds[pairs], int(pictures.sum()), convention
        )
        numbers = np.append(np.flatnonzero(pairs), -1)  # the last one serves text, numbered -1
        compact_ids.append(pad_to(prompt.token_ids, length, tokenizer.pad_token_id))
        lengths.append(len(prompt.token_ids))
        entries.append(pad_to(numbers[prompt.entry_index], length, -1))
    return clips.batch.prompts.replace(
        compact_ids=np.stack(compact_ids),
        compact_length=np.array(lengths, np.int32),
        entry_index=np.stack(entries),
    )


def other_colour(questions: Sequence[str]) -> Int[np.ndarray, " B"]:
    """For each question, the place of the next one that asks about none of its colours.

    The first follows the last. Where all share a colour with it, it is simply the next one.
    """
    count = len(questions)
    colours = [COLOURS.keys() & question.split() for question in questions]

    def other(place: int) -> int:
        following = [(place + step) % count for step in range(1, count + 1)]
        return next((i for i in following if not colours[i] & colours[place]), following[0])

    return np.array([other(place) for place in range(count)])
