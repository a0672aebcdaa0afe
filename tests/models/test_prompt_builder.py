"""The compact prompt of a question about pairs, with a byte-level tokenizer."""

from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from resadapt_jax.errors import UserError
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.prompt_builder import (
    Shown,
    Turn,
    build_chat,
    build_prompt,
    check_tokenizer,
    locate_entries,
    without_markers,
)
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    """One token per byte: ids 0-255, then the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = Tokenizer(BPE({byte: index for index, byte in enumerate(alphabet)}, []))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    base.decoder = decoders.ByteLevel()
    base.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=base, chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def config(tokenizer):
    start, end, image, video = tokenizer.convert_tokens_to_ids(SPECIAL[2:])
    return Qwen2_5VLConfig(
        text=TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            mrope_section=(1, 1, 2),
        ),
        vision=VisionConfig(
            depth=1,
            hidden_size=8,
            intermediate_size=8,
            num_heads=1,
            out_hidden_size=8,
            fullatt_block_indexes=(0,),
        ),
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )


def test_every_pair_is_an_entry_behind_its_time(tokenizer, config):
    prompt = build_prompt(tokenizer, "Which?", [0.25, 1.0, 61.06])
    # Python rounds the stored binary value: 0.25 is exact and goes to even.
    assert prompt.text == (
        "<|im_start|>user\n"
        "<0.2 seconds><|vision_start|><|video_pad|><|vision_end|>"
        "<1.0 seconds><|vision_start|><|video_pad|><|vision_end|>"
        "<61.1 seconds><|vision_start|><|video_pad|><|vision_end|>"
        "Which?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(prompt.token_ids) == prompt.text
    at = np.flatnonzero(prompt.entry_index >= 0)
    assert prompt.entry_index[at].tolist() == [0, 1, 2]
    assert set(prompt.token_ids[at]) == {config.video_token_id}
    assert set(prompt.token_ids[at - 1]) == {config.vision_start_token_id}
    assert set(prompt.token_ids[at + 1]) == {config.vision_end_token_id}
    assert prompt.token_ids.dtype == prompt.entry_index.dtype == np.int32


@pytest.mark.parametrize("convention", list(Convention))
def test_pairs_of_a_shared_clock_stand_in_one_wrapper(tokenizer, convention):
    prompt = build_prompt(tokenizer, "Which?", [0.25, 1.0], convention)
    pad = "<|video_pad|>"
    if convention in (Convention.RESADAPT, Convention.RESADAPT_NATIVE):
        shown = f"<|vision_start|>{pad}{pad}<|vision_end|>"
    else:
        wrapped = f"<|vision_start|>{pad}<|vision_end|>"
        shown = f"<0.2 seconds>{wrapped}<1.0 seconds>{wrapped}"
    assert f"user\n{shown}Which?" in prompt.text
    assert prompt.entry_index[prompt.entry_index >= 0].tolist() == [0, 1]


def test_no_pairs_is_a_text_prompt(tokenizer):
    prompt = build_prompt(tokenizer, "Hi", [])
    assert prompt.text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (prompt.entry_index == -1).all()


@pytest.mark.parametrize("pad", ["<|video_pad|>", "<|image_pad|>"])
def test_placeholder_in_the_question_is_an_error(tokenizer, pad):
    with pytest.raises(UserError, match="3 visual placeholders for 2 entries"):
        build_prompt(tokenizer, f"what is {pad}?", [0.5, 1.5])


def test_images_and_videos_are_numbered_together(tokenizer, config):
    ids = np.array([1, config.image_token_id, 2, config.video_token_id, config.image_token_id])
    assert locate_entries(ids, tokenizer, 3).tolist() == [-1, 0, -1, 1, 2]
    with pytest.raises(UserError, match="3 visual placeholders for 4 entries"):
        locate_entries(ids, tokenizer, 4)


def test_a_tokenizer_of_another_model_is_refused(tokenizer, config):
    check_tokenizer(tokenizer, config)
    other = replace(config, video_token_id=config.video_token_id + 1)
    with pytest.raises(UserError) as refusal:
        check_tokenizer(tokenizer, other)
    assert f"<|video_pad|> is {config.video_token_id}" in str(refusal.value)
    assert f"config.json says {config.video_token_id + 1}" in str(refusal.value)
    assert "<|image_pad|>" not in str(refusal.value)


CHAT = [
    Turn("system", "Be brief."),
    Turn("user", "Before <video> and <image>, after <video>?"),
    Turn("assistant", "Later."),
    Turn("user", "Sure?"),
]
MEDIA = [Shown("video", [0.5, 2.0]), Shown("image", [0.0]), Shown("video", [1.5])]


def test_media_are_shown_where_turns_mark_them(tokenizer, config):
    prompt = build_chat(tokenizer, CHAT, MEDIA)
    shown = "<|vision_start|><|{}_pad|><|vision_end|>"
    video, image = shown.format("video"), shown.format("image")
    assert prompt.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nBefore "
        f"<0.5 seconds>{video}<2.0 seconds>{video} and {image}, after <1.5 seconds>{video}?"
        "<|im_end|>\n<|im_start|>assistant\nLater.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    )
    at = np.flatnonzero(prompt.entry_index >= 0)
    assert prompt.entry_index[at].tolist() == [0, 1, 2, 3]
    kinds = [config.video_token_id] * 2 + [config.image_token_id, config.video_token_id]
    assert prompt.token_ids[at].tolist() == kinds
    whole = build_chat(tokenizer, [Turn("user", "<video>Which?")], [Shown("video", [0.5, 2.0])])
    assert whole.text == build_prompt(tokenizer, "Which?", [0.5, 2.0]).text


def test_pairs_that_share_an_anchor_stand_in_one_wrapper_a_video(tokenizer):
    prompt = build_chat(tokenizer, CHAT, MEDIA, Convention.RESADAPT)
    said = prompt.text.replace("<|vision_start|>", "(").replace("<|vision_end|>", ")")
    said = said.replace("<|video_pad|>", "v").replace("<|image_pad|>", "i")
    assert "Before (vv) and (i), after (v)?" in said


@pytest.mark.parametrize(
    "turns, media",
    [
        (CHAT, MEDIA[:2]),
        (CHAT, [MEDIA[1], MEDIA[0], MEDIA[2]]),
        ([Turn("user", "Which?")], MEDIA[:1]),
    ],
)
def test_marks_must_be_those_of_the_media(tokenizer, turns, media):
    with pytest.raises(UserError, match="the turns mark"):
        build_chat(tokenizer, turns, media)


def test_placeholders_in_a_text_are_refused(tokenizer):
    with pytest.raises(UserError, match="has 2 visual placeholders for 1 entries"):
        build_chat(tokenizer, [Turn("user", "<image> is <|image_pad|>?")], MEDIA[1:2])


def test_texts_without_their_markers():
    assert without_markers("a <image>b<video><video> c") == "a b c"
