"""From clips to token ids: one token a word, one placeholder a pair, no evidence."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from resadapt_jax.data.batches import HostShare, pad_to, pair_seconds
from resadapt_jax.data.toy_pipeline import (
    ANSWER_TOKENS,
    HEADER_TOKENS,
    TURN_TOKENS,
    Room,
    dialogue_batches,
    held_out_batches,
    question_batches,
)
from resadapt_jax.data.toy_questions import TASKS, question_text
from resadapt_jax.data.toy_signs import COLOURS
from resadapt_jax.data.toy_source import ToyClips, ToyDialogues
from resadapt_jax.data.toy_tokenizer import CHAT_TEMPLATE, build_toy_tokenizer
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.prompt_builder import build_prompt
from resadapt_jax.models.tokenizer import encode_query

WORLD = ToyWorldConfig(seed=5)
TOKENIZER = build_toy_tokenizer()


def test_pair_seconds_are_means():
    assert pair_seconds(np.array([0.0, 0.5, 1.0, 1.5])).tolist() == [0.25, 1.25]


def test_a_pairs_header_is_four_tokens():
    seconds = pair_seconds(np.arange(WORLD.num_frames) / 2)
    with_video = build_prompt(TOKENIZER, "?", seconds).token_ids
    without = build_prompt(TOKENIZER, "?", []).token_ids
    assert len(with_video) - len(without) == HEADER_TOKENS * WORLD.num_pairs


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("task", TASKS)
def test_turns_and_answers_fit_their_bounds(task, colour):
    ids = build_prompt(TOKENIZER, question_text(task, colour), []).token_ids
    assert len(ids) + ANSWER_TOKENS + 1 <= TURN_TOKENS
    for pair in range(WORLD.num_pairs):
        reply = f" {colour} {pair}.0 to {pair + 1}.0<|im_end|>"
        assert len(TOKENIZER.encode(reply)) == ANSWER_TOKENS


@pytest.mark.parametrize("text", ["when does it flip?", "日本語 ünïcödé 🙂", "<7.3 seconds>"])
def test_any_text_encodes_and_comes_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_the_tokenizer_is_always_the_same():
    assert build_toy_tokenizer().get_vocab() == TOKENIZER.get_vocab()


def test_batches_hold_no_evidence():
    batch = next(question_batches(ToyClips(WORLD, 4), TOKENIZER, 2))
    assert "evidence" in ToyClips(WORLD, 4)[0]
    assert "evidence" not in batch
    assert (batch["entry_index"].max(axis=1) == WORLD.num_pairs - 1).all()


def test_answer_positions_point_at_the_answers():
    source = ToyDialogues(WORLD, 2, turns=3)
    batch = next(dialogue_batches(source, TOKENIZER, 2))
    for row in range(2):
        at = batch["answer_index"][row]
        ids = batch["compact_ids"][row][at[at >= 0]]
        expected = "".join(answer + "<|im_end|>" for _, answer in source[row]["turns"])
        assert TOKENIZER.decode(ids) == expected


def test_an_iterator_resumes_where_it_was():
    source = ToyClips(WORLD, 12)
    batches = question_batches(source, TOKENIZER, 2)
    next(batches)
    state = batches.get_state()
    wanted = [next(batches)["compact_ids"] for _ in range(2)]
    resumed = question_batches(source, TOKENIZER, 2)
    resumed.set_state(state)
    for ids in wanted:
        assert (next(resumed)["compact_ids"] == ids).all()


def test_another_number_of_processes_goes_on_at_the_same_batch():
    source = ToyClips(WORLD, 16)

    def of(index, count):
        return question_batches(source, TOKENIZER, 4, share=HostShare(index, count))

    alone = of(0, 1)
    next(alone), next(alone)
    state = alone.get_state()
    wanted = next(alone)["compact_ids"]
    halves = [of(index, 2) for index in range(2)]
    for half in halves:
        half.set_state(state)
    np.testing.assert_array_equal(np.concatenate([next(h)["compact_ids"] for h in halves]), wanted)
    assert halves[0].get_state() == halves[1].get_state() == alone.get_state()
    alone.set_state(state)  # at the end there is no more
    assert len(list(alone)) == 2


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="3 positions do not fit in 2"):
        pad_to([1, 2, 3], 2, 0)


def test_a_query_is_the_question_alone():
    """Tokenizers may put a token before every text, as a sentence's start; a query has none."""
    adding = build_toy_tokenizer()
    start = adding.convert_tokens_to_ids("<|im_start|>")
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    text = "Which letter is on the red sign?"
    assert adding.encode(text) == [start, *TOKENIZER.encode(text)]
    assert encode_query(adding, text) == TOKENIZER.encode(text)
    source = ToyClips(WORLD, 1)
    batch = next(question_batches(source, adding, 1))
    ids = batch["query_ids"][batch["query_mask"]]
    assert ids.tolist() == TOKENIZER.encode(source[0]["question"])


def test_there_is_room_for_every_question_of_any_tokenizer():
    """Bytes for tokens, and a chat template that says more: the longest question just fits."""
    wordy = build_toy_tokenizer()
    state = json.loads(wordy.backend_tokenizer.to_str())
    state["model"]["merges"] = []
    without_merges = Tokenizer.from_str(json.dumps(state))
    template = "Look: " + CHAT_TEMPLATE
    wordy = PreTrainedTokenizerFast(tokenizer_object=without_merges, chat_template=template)
    room = Room.measure(wordy, TOKENIZER, WORLD, Convention.HF_5)
    # Look:  <|im_start|> user \n, K times <11.2 seconds> in three wrapping tokens, the question's
    # 41 bytes, <|im_end|> \n <|im_start|> assistant \n.
    longest = len("How many points is the purple sign worth?")
    header = len("<11.2 seconds>") + 3
    assert room.prompt == 6 + 1 + 5 + WORLD.num_pairs * header + longest + 2 + 1 + 10
    assert room.query == max(len(TOKENIZER.encode(q)) for q in all_questions())
    batch = next(question_batches(ToyClips(WORLD, 8), wordy, 8, query_tokenizer=TOKENIZER))
    assert batch["compact_ids"].shape == (8, room.prompt)
    assert batch["compact_length"].max() <= room.prompt


def all_questions():
    return [question_text(task, colour) for task in TASKS for colour in COLOURS]


def test_pictures_are_images_of_their_own():
    """Two pictures and a clip of two pairs: images by themselves, then the video."""
    world = ToyWorldConfig(
        size=56, num_pairs=4, num_pictures=2, num_signs=2, tasks=("both",), longest_sign=1
    )
    batch = next(iter(held_out_batches(ToyClips(world, 2), TOKENIZER, 2)))
    assert batch["segment_ids"].tolist() == [[1, 1, 2, 2, 0, 0, 0, 0]] * 2
    assert batch["frame_mask"].tolist() == [[True, False, True, False] + [True] * 4] * 2
    image, video = TOKENIZER.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    for row in range(2):
        shown = batch["entry_index"][row] >= 0
        assert batch["compact_ids"][row][shown].tolist() == [image] * 2 + [video] * 2
        assert batch["entry_index"][row][shown].tolist() == [0, 1, 2, 3]
        text = TOKENIZER.decode(batch["compact_ids"][row][: batch["compact_length"][row]])
        assert text.count(" seconds>") == 2  # pictures have no time
        assert batch["evidence"][row].sum() == 2
    assert batch["problem_type"].tolist() == ["exact match"] * 2
