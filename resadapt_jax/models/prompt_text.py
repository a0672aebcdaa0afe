"""Builds the compact prompt of a question about temporal pairs, on the host."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resadapt_jax.errors import UserError
from resadapt_jax.models.convention import Convention
from resadapt_jax.models.families import ModelConfig
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


def build_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    question: str,
    pair_seconds: Sequence[float],
    convention: Convention = Convention.HF_5,
) -> CompactPrompt:
    """A user turn that shows every temporal pair as a video entry of its own, then asks.

    A pair is ``<t seconds>`` with one decimal, vision start, the placeholder, vision end, so that
    time survives although every entry restarts its own clock. Where pairs share an anchor, and
    with it a clock, all placeholders stand in a single wrapper without times. The turn goes
    through the tokenizer's chat template.

    Args:
        tokenizer: any tokenizer with Qwen's special tokens and a chat template.
        question: the user's text.
        pair_seconds: mean time of the two frames of each pair.
        convention: what the positions will follow (`prompt_layout.expand_prompt`).

    Raises:
        UserError: the question itself holds a placeholder token.
    """
    if convention.shares_anchor:
        pads = VIDEO_PAD * len(pair_seconds)
        shown = f"{VISION_START}{pads}{VISION_END}" if pads else ""
    else:
        wrapped = f"{VISION_START}{VIDEO_PAD}{VISION_END}"
        shown = "".join(f"<{seconds:.1f} seconds>{wrapped}" for seconds in pair_seconds)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": shown + question}], tokenize=False, add_generation_prompt=True
    )
    # The template has already placed every special token.
    token_ids = np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32)
    entry_index = locate_entries(token_ids, tokenizer, len(pair_seconds))
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
