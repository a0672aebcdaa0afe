"""A prompt's images, videos and text as rows of the allocator's batch, and back; on the host.

The videos of a prompt are joined in time into one row. Each image is a row of its own with a
single unit, so images see neither one another nor the videos. The text is repeated for every row.
R counts rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from resadapt_jax.errors import UserError
from resadapt_jax.typing import Bool, Int, Num


@dataclass(frozen=True, kw_only=True)
class VisualEntry:
    """One image, or one video of so many sampled frames."""

    kind: Literal["image", "video"]
    num_frames: int = 1

    def __post_init__(self):
        if self.num_frames < 1 or (self.kind == "image" and self.num_frames > 1):
            raise ValueError(f"{self.kind} of {self.num_frames} frames")


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where an entry's frames lie: ``num_frames`` from ``start`` in a row."""

    row: int
    start: int
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class PromptRows:
    """The rows of a batch of prompts.

    Attributes:
        spans: one per entry of each prompt, in the prompt's order.
        prompt_index: the prompt that each row belongs to; row r is given the text of that prompt.
        num_frames: frames of the longest row.
        frames_per_unit: 2 where temporal pairs receive a scale, 1 where frames do.
    """

    spans: tuple[tuple[Span, ...], ...]
    prompt_index: tuple[int, ...]
    num_frames: int
    frames_per_unit: int


def plan_rows(prompts: Sequence[Sequence[VisualEntry]], *, frames_per_unit: int = 2) -> PromptRows:
    """Assigns the entries of each prompt to rows, in the order in which they first appear.

    A joined video starts at a whole unit: after one of odd length a frame stays empty, so that no
    temporal pair holds frames of two videos.
    """
    spans, prompt_index = [], []

    def new_row(prompt: int) -> int:
        prompt_index.append(prompt)
        return len(prompt_index) - 1

    for prompt, entries in enumerate(prompts):
        video_row, video_end, placed = None, 0, []
        for entry in entries:
            if entry.kind == "image":
                placed.append(Span(row=new_row(prompt), start=0, num_frames=1))
                continue
            video_row = new_row(prompt) if video_row is None else video_row
            start = -(-video_end // frames_per_unit) * frames_per_unit
            video_end = start + entry.num_frames
            placed.append(Span(row=video_row, start=start, num_frames=entry.num_frames))
        spans.append(tuple(placed))
    ends = [span.start + span.num_frames for prompt in spans for span in prompt]
    return PromptRows(
        spans=tuple(spans),
        prompt_index=tuple(prompt_index),
        num_frames=max(ends, default=0),
        frames_per_unit=frames_per_unit,
    )


def check_entries(
    rows: PromptRows, entries: Sequence[Sequence[Num[np.ndarray, "f *rest"]]]
) -> None:
    """Refuses frames, or features of frames, that are not those of a plan.

    Raises:
        UserError: no entry at all, or other numbers of frames.
    """
    planned = [[span.num_frames for span in prompt] for prompt in rows.spans]
    given = [[len(entry) for entry in prompt] for prompt in entries]
    if given != planned:
        raise UserError(f"the prompts' entries have {planned} frames, but {given} are given")
    if not rows.prompt_index:
        raise UserError("there is no image and no video")


def join_entries(
    rows: PromptRows, entries: Sequence[Sequence[Num[np.ndarray, "f *rest"]]]
) -> tuple[Num[np.ndarray, "R F *rest"], Bool[np.ndarray, "R F"]]:
    """Lays frames, or features of frames, of every prompt's entries into rows, zeros between.

    Videos of differing size have no common array of pixels: encode each by itself, then join the
    features, which is the same where the encoder looks at frames one by one.

    Returns:
        The rows and their ``frame_mask``.

    Raises:
        UserError: as `check_entries`.
        ValueError: entries that do not match one another.
    """
    check_entries(rows, entries)
    arrays = [np.asarray(entry) for prompt in entries for entry in prompt]
    spans = [span for prompt in rows.spans for span in prompt]
    if len({(a.shape[1:], a.dtype) for a in arrays}) > 1:
        raise ValueError(f"entries of one shape are needed, got {[a.shape for a in arrays]}")
    shape = len(rows.prompt_index), rows.num_frames
    joined = np.zeros((*shape, *arrays[0].shape[1:]), arrays[0].dtype)
    mask = np.zeros(shape, bool)
    for span, array in zip(spans, arrays, strict=True):
        place = span.row, slice(span.start, span.start + span.num_frames)
        joined[place], mask[place] = array, True
    return joined, mask


def split_units(
    rows: PromptRows, values: Num[np.ndarray, "R *M K"]
) -> list[list[Num[np.ndarray, "*M k"]]]:
    """What each entry of each prompt received, one value per unit of its own: ⌈f / unit⌉."""
    values, per_unit = np.asarray(values), rows.frames_per_unit

    def of_entry(span: Span) -> np.ndarray:
        first, count = span.start // per_unit, -(-span.num_frames // per_unit)
        return values[span.row][..., first : first + count]

    return [[of_entry(span) for span in prompt] for prompt in rows.spans]


def tokenize_texts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[str]],
    *,
    length: int | None = None,
) -> tuple[Int[np.ndarray, "B N"], Bool[np.ndarray, "B N"]]:
    """Ids and mask of each prompt's user texts, joined by newlines and padded on the right.

    No chat template and no special tokens; system turns are the caller's to leave out.

    Args:
        length: N; ``None`` takes the longest prompt's.

    Raises:
        UserError: a prompt longer than ``length``.
    """
    ids = [tokenizer.encode("\n".join(texts), add_special_tokens=False) for texts in prompts]
    longest = max(map(len, ids), default=0)
    length = max(longest, 1) if length is None else length
    if longest > length:
        raise UserError(f"a prompt's text has {longest} tokens, at most {length} fit")
    padded = np.zeros((len(ids), length), np.int32)
    mask = np.zeros((len(ids), length), bool)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)], mask[row, : len(tokens)] = tokens, True
    return padded, mask
