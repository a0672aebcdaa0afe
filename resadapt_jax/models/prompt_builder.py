"""Builds compact prompts of questions about images and videos, on the host."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from resadapt_jax.errors import UserError
from resadapt_jax.models.families import ModelConfig
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.typing import Int

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Qwen-VL's names; which ids they have is the tokenizer's affair.
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"


@dataclass(frozen=True, kw_only=True)
class CompactPrompt:
    """A prompt with one placeholder token per visual entry.

    Attributes:
        text: what was tokenised.
        token_ids: its ids.
        entry_index: the entry a placeholder stands for, counted from 0; -1 for text.
    """

    text: str
    token_ids: Int[np.ndarray, " C"]
    entry_index: Int[np.ndarray, " C"]


@dataclass(frozen=True)
class Turn:
    """A turn of a chat; ``<image>`` and ``<video>`` in its content mark where media are shown."""

    role: str
    content: str


@dataclass(frozen=True)
class Shown:
    """A medium of a prompt: the mean time of the frames of each of its pairs, in seconds."""

    kind: Literal["image", "video"]
    pair_seconds: Sequence[float]


MARKER = re.compile("<(image|video)>")
"""Where a medium is shown."""


def without_markers(text: str) -> str:
    """A turn's content, less the marks of its media."""
    return MARKER.sub("", text)


def build_chat(
    tokenizer: "PreTrainedTokenizerBase",
    turns: Sequence[Turn],
    media: Sequence[Shown],
    convention: Convention = Convention.HF_5,
) -> CompactPrompt:
    """A chat that shows media where its turns are marked, for the model to go on with.

    Every temporal pair of a video is an entry of its own: ``<t seconds>`` with one decimal, vision
    start, the placeholder, vision end, so that time survives although every entry restarts its own
    clock. Where pairs share an anchor, and with it a clock, all placeholders of a video stand in a
    single wrapper without times. An image is its placeholder in the wrapper. The turns go through
    the tokenizer's chat template.

    Args:
        tokenizer: any tokenizer with Qwen's special tokens and a chat template.
        media: in the order of their marks.
        convention: what the positions will follow (`prompt_layout.expand_prompt`).

    Raises:
        UserError: the marks are not those of the media, or a turn itself holds a placeholder token.
    """
    marked = [kind for turn in turns for kind in MARKER.findall(turn.content)]
    if marked != (kinds := [medium.kind for medium in media]):
        raise UserError(f"the turns mark {marked}, the media are {kinds}")
    waiting = iter(media)
    messages = [
        {
            "role": turn.role,
            "content": MARKER.sub(lambda _: _show(next(waiting), convention), turn.content),
        }
        for turn in turns
    ]
    return _tokenise(tokenizer, messages, sum(len(medium.pair_seconds) for medium in media))


def build_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    question: str,
    pair_seconds: Sequence[float],
    convention: Convention = Convention.HF_5,
) -> CompactPrompt:
    """A user turn that shows a video, if it has pairs, and then asks; as `build_chat` does it.

    Raises:
        UserError: the question itself holds a placeholder token.
    """
    shown = _show(Shown("video", pair_seconds), convention) if len(pair_seconds) else ""
    messages = [{"role": "user", "content": shown + question}]
    return _tokenise(tokenizer, messages, len(pair_seconds))


def seconds_text(seconds: float) -> str:
    """A time as prompts say it."""
    return f"{seconds:.1f}"


def _show(medium: Shown, convention: Convention) -> str:
    """A medium's placeholders in their wrappers."""
    if medium.kind == "image":
        return f"{VISION_START}{IMAGE_PAD}{VISION_END}"
    if convention.shares_anchor:
        return f"{VISION_START}{VIDEO_PAD * len(medium.pair_seconds)}{VISION_END}"
    wrapped = f"{VISION_START}{VIDEO_PAD}{VISION_END}"
    return "".join(f"<{seconds_text(time)} seconds>{wrapped}" for time in medium.pair_seconds)


def _tokenise(
    tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], num_entries: int
) -> CompactPrompt:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # The template has already placed every special token.
    token_ids = np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32)
    entry_index = locate_entries(token_ids, tokenizer, num_entries)
    return CompactPrompt(text=text, token_ids=token_ids, entry_index=entry_index)


def locate_entries(
    token_ids: Int[np.ndarray, " C"], tokenizer: "PreTrainedTokenizerBase", num_entries: int
) -> Int[np.ndarray, " C"]:
    """Numbers the placeholders of a compact prompt in order; -1 for text.

    Raises:
        UserError: there are not exactly ``num_entries`` placeholders.
    """
    pads = tokenizer.convert_tokens_to_ids([IMAGE_PAD, VIDEO_PAD])
    placeholder = np.isin(token_ids, pads)
    if (found := int(placeholder.sum())) != num_entries:
        raise UserError(f"the prompt has {found} visual placeholders for {num_entries} entries")
    return np.where(placeholder, np.cumsum(placeholder) - 1, -1).astype(np.int32)


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase", config: ModelConfig) -> None:
    """Refuses a tokenizer with which `build_prompt` cannot write to the model.

    Raises:
        UserError: its visual tokens are not those of the model, named with both ids, or it has no
            chat template.
    """
    named = {
        VISION_START: config.vision_start_token_id,
        VISION_END: config.vision_end_token_id,
        IMAGE_PAD: config.image_token_id,
        VIDEO_PAD: config.video_token_id,
    }
    vocabulary = tokenizer.get_vocab()
    wrong = [
        f"{token} is {vocabulary.get(token, 'absent')}, config.json says {wanted}"
        for token, wanted in named.items()
        if vocabulary.get(token) != wanted
    ]
    if wrong:
        raise UserError("tokenizer and model do not belong together: " + "; ".join(wrong))
    if tokenizer.chat_template is None:
        raise UserError("the tokenizer has no chat template")
