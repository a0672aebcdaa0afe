"""A row of a corpus as a prompt of the backbone and a query of the allocator."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from resadapt_jax import rewards
from resadapt_jax.data.batches import pad_to
from resadapt_jax.data.canvas import segment_ids
from resadapt_jax.data.load import LoadedRow
from resadapt_jax.data.row import Row, RowError, UnknownTask, user_text
from resadapt_jax.data.shapes import BatchShape
from resadapt_jax.errors import UserError
from resadapt_jax.models.position_convention import Convention, milliseconds
from resadapt_jax.models.prompt_builder import (
    CompactPrompt,
    Shown,
    Turn,
    build_chat,
    seconds_text,
    without_markers,
)
from resadapt_jax.models.tokenizer import encode_query
from resadapt_jax.training.config import Instruction
from resadapt_jax.typing import Float


@dataclass(frozen=True, kw_only=True)
class RowEncoder:
    """How rows become prompts; picklable, as other processes may do it.

    Attributes:
        tokenizer: of the backbone.
        query_tokenizer: of the allocator's encoder.
        convention: how positions are numbered.
        instruction: what is added to the last turn of the user (`rewards.instruction`).
        grading: how answers are graded.
    """

    tokenizer: PreTrainedTokenizerBase
    query_tokenizer: PreTrainedTokenizerBase
    convention: Convention
    instruction: Instruction = "none"
    grading: rewards.RewardConfig = rewards.RewardConfig()

    def settings(self) -> tuple[str, ...]:
        """What `count_tokens` and `check` depend on, as text."""
        tokenizers = self.tokenizer, self.query_tokenizer
        known = [f"{t.name_or_path} {len(t)} {t.chat_template}" for t in tokenizers]
        grading = replace(self.grading, num_workers=0)  # grades are the same by any number
        return *known, self.convention.value, self.instruction, repr(grading)

    def count_tokens(self, row: Row, seconds: Sequence[Float[np.ndarray, " k"]]) -> tuple[int, int]:
        """Most tokens of the prompt, its pairs counting one each, and tokens of the query.

        A file need not keep what its header says, so there is room for any times up to a second
        later: a token for each character.

        Args:
            seconds: planned times of each medium's pairs.

        Raises:
            RowError: the text holds a token that stands for pixels, the user says nothing, or the
                chat template refuses the turns.
        """
        query, prompt = self._query(row), self._prompt(row, seconds)
        times = [
            time
            for medium, times in zip(row.media, seconds, strict=True)
            for time in times.tolist()
            if medium.kind == "video" and not self.convention.shares_anchor
        ]
        room = sum(len(seconds_text(max(times) + 1)) - self._tokens_of(time) for time in times)
        return len(prompt.token_ids) + room, len(query)

    def _tokens_of(self, seconds: float) -> int:
        """Of a time as prompts say it."""
        return len(self.tokenizer.encode(seconds_text(seconds), add_special_tokens=False))

    def check(self, problem_type: str, truth: str) -> str | None:
        """What keeps answers from being graded, if anything does.

        Raises:
            UnknownTask: nobody knows the problem type, and there is no default.
        """
        try:
            task = self.grading.task_of(problem_type)
        except UserError as error:
            hint = f"{error}; rewards.default_task would grade it all the same"
            raise UnknownTask(problem_type, hint) from error
        return rewards.check_truth(task, truth, self.grading)

    def __call__(self, row: Row, loaded: LoadedRow, shape: BatchShape) -> dict[str, Any]:
        """The arrays of a batch's row; a row that is skipped is text, and not valid.

        Raises:
            RowError: the text holds a token that stands for pixels, or there is more of it than was
                planned for.
        """
        lost = bool(loaded.skipped)
        query = self._query(row)
        prompt = self._prompt(row, None if lost else loaded.seconds_per_medium)
        kinds = [medium.kind for medium in row.media]
        return {
            "frames": loaded.frames,
            "frame_mask": loaded.frame_mask,
            "segment_ids": segment_ids(kinds, loaded.medium),
            "valid": np.bool_(not lost),
            "compact_ids": _padded(prompt.token_ids, shape.prompt_tokens, 0),
            "compact_length": np.int32(len(prompt.token_ids)),
            "entry_index": _padded(prompt.entry_index, shape.prompt_tokens, -1),
            "pair_milliseconds": milliseconds(loaded.pair_seconds),
            "query_ids": _padded(query, shape.query_tokens, 0),
            "query_mask": np.arange(shape.query_tokens) < len(query),
            "question": user_text(row.messages),
            "problem_type": row.problem_type,
            "answer": row.truth,
            "skipped": loaded.skipped,
            "damage": loaded.damage,
        }

    def _prompt(self, row: Row, seconds: Sequence[Float[np.ndarray, " k"]] | None) -> CompactPrompt:
        """With the media at these times; without any where there are none."""
        turns = list(row.messages)
        if self.instruction != "none":
            turns = _instruct(turns, rewards.instruction(self.instruction, self._task(row)))
        if seconds is None:
            turns, shown = [Turn(turn.role, without_markers(turn.content)) for turn in turns], []
        else:
            shown = [
                Shown(medium.kind, times) for medium, times in zip(row.media, seconds, strict=True)
            ]
        try:
            return build_chat(self.tokenizer, turns, shown, self.convention)
        except (UserError, jinja2.TemplateError) as error:
            raise RowError("prompt", str(error)) from error

    def _query(self, row: Row) -> list[int]:
        return encode_query(self.query_tokenizer, user_text(row.messages))

    def _task(self, row: Row) -> rewards.TaskType:
        return self.grading.task_of(row.problem_type)


def _padded(values: list[int] | np.ndarray, length: int, fill: int) -> np.ndarray:
    try:
        return pad_to(values, length, fill)
    except ValueError as error:
        raise RowError("longer than its header said", str(error)) from error


def _instruct(turns: list[Turn], instruction: str) -> list[Turn]:
    """Adds the instruction to the user's last turn."""
    last = max(i for i, turn in enumerate(turns) if turn.role == "user")
    content = f"{turns[last].content.rstrip()}\n{instruction}"
    return [*turns[:last], Turn("user", content), *turns[last + 1 :]]
