"""The embedded world: legible only in places, deterministic, honest about its answers."""

import dataclasses

import numpy as np
import pytest

from resadapt_jax.data.toy_questions import TASKS, ask, possible_questions, question_text
from resadapt_jax.data.toy_signs import BORDER, CLOCK_GLYPHS, COLOURS, GLYPHS, LETTERS, SIGN, Sign
from resadapt_jax.data.toy_source import SampledClips, ToyClips, ToyDialogues, pair_labels
from resadapt_jax.data.toy_world import (
    CLOCK_SECONDS,
    ToyWorldConfig,
    clip_rng,
    draw_signs,
    frame_times,
    render,
)

WORLD = ToyWorldConfig(seed=5)


def drawn(index, world=WORLD):
    rng = clip_rng(world, index)
    signs = draw_signs(rng, world)
    return signs, render(rng, signs, world)


def near(pixels, colour, tolerance=14):
    """Where the pixels are a colour, give or take the noise of 0..12."""
    difference = pixels.astype(int) - np.array(colour)
    return ((difference >= -1) & (difference <= tolerance)).all(axis=-1)


def test_a_clip_is_a_function_of_seed_and_index():
    clips = ToyClips(WORLD, 10)
    again = ToyClips(WORLD, 4, first=3)
    assert (clips[5]["frames"] == again[2]["frames"]).all()
    assert clips[5]["question"] == again[2]["question"]
    other = ToyClips(dataclasses.replace(WORLD, seed=6), 10)
    assert (clips[5]["frames"] != other[5]["frames"]).any()


def test_signs_do_not_share_a_colour_or_a_moment():
    for index in range(200):
        signs = draw_signs(clip_rng(WORLD, index), WORLD)
        assert len({sign.colour for sign in signs}) == WORLD.num_signs
        pairs = [pair for sign in signs for pair in sign.pairs]
        assert len(pairs) == len(set(pairs)) and max(pairs) < WORLD.num_pairs and min(pairs) >= 0


def test_a_sign_is_drawn_in_its_pairs_and_nowhere_else():
    signs, frames = drawn(0)
    for sign in signs:
        border = near(frames, COLOURS[sign.colour]).sum(axis=(1, 2))
        expected = SIGN**2 - (SIGN - 2 * BORDER) ** 2  # 28² - 18² = 460 pixels
        for frame, count in enumerate(border):
            if frame // 2 in sign.pairs:
                assert count >= expected
            else:
                assert count < 20


def test_what_is_printed_is_what_the_answers_say():
    sign = Sign("red", 2, 5, "C", "7", "+x", 28, 42)
    world = dataclasses.replace(WORLD, num_pairs=5, num_signs=1)
    frames = render(clip_rng(world, 0), (sign,), world)
    assert ask("which", sign).answer == "C"
    assert ask("how_many", sign).answer == "7"
    # It went up at 5 s and a pair lasts a second.
    assert ask("when", sign).answer == "5.0 to 6.0"
    # The third pair is at 5 s, so the clip started at 3 s; frames are half a second apart.
    assert frame_times((sign,), world)[:3].tolist() == [3.0, 3.5, 4.0]
    for frame, mark in ((4, "+"), (5, "+"), (6, "x"), (7, "x")):
        corner = np.argwhere(near(frames[frame], COLOURS["red"]))[0]
        ink = frames[frame].max(axis=-1) < 40
        for glyph, row, col in (("C", 6, 7), ("7", 6, 16), (mark, 15, 7)):
            top, left = corner + (row, col)
            assert (ink[top : top + 7, left : left + 5] == GLYPHS[glyph]).all()
        for digit, col in (("0", 15), ("5", 19)):
            top, left = corner + (16, col)
            assert (ink[top : top + 5, left : left + 3] == CLOCK_GLYPHS[digit]).all()


def test_plus_and_cross_are_equally_dark():
    # Else a blurred mark would give its shape away by its mean.
    assert GLYPHS["+"].sum() == GLYPHS["x"].sum() == 9


def test_every_task_is_asked_of_every_sign():
    signs = draw_signs(clip_rng(WORLD, 0), WORLD)
    asked = {question.text for question in possible_questions(signs)}
    assert asked == {question_text(task, sign.colour) for task in TASKS for sign in signs}
    assert len(asked) == 3 * len(signs)


HARD = ToyWorldConfig(
    seed=5,
    num_pairs=10,
    num_signs=3,
    num_pictures=2,
    longest_sign=1,
    tasks=(*TASKS, "both"),
    least_clock=20,
)


def test_pictures_come_first_and_stand_still():
    for index in range(30):
        signs, frames = drawn(index, HARD)
        stills = [sign for sign in signs if sign.still]
        assert [sign.first_pair for sign in stills] == [0, 1]
        assert len({sign.colour for sign in signs}) == 5
        for sign in signs:
            assert len(sign.pairs) == 1 and (sign.first_pair >= 2) != sign.still
            here = near(frames[2 * sign.first_pair], COLOURS[sign.colour]).sum()
            # the border of the sign, less what noise takes
            assert here > 0.9 * (SIGN**2 - (SIGN - 2 * BORDER) ** 2)
        np.testing.assert_array_equal(frames[[0, 2]], frames[[1, 3]])
        assert (frames[0] != frames[2]).any()
        times = frame_times(signs, HARD)
        assert times[:4].tolist() == [0.0] * 4 and times[-1] < HARD.clock_seconds == 20
        for sign in signs[:3]:
            assert times[2 * sign.first_pair] == sign.clock


def test_of_a_clip_every_so_many_pairs_are_sampled_and_every_picture():
    whole, sampled = ToyClips(HARD, 3)[1], SampledClips(ToyClips(HARD, 3), 3)[1]
    kept = [0, 1, 2, 5, 8]  # two pictures, then every third of 8 pairs
    assert sampled["evidence"].tolist() == whole["evidence"][kept].tolist()
    frames = [0, 1, 2, 3, 4, 5, 10, 11, 16, 17]
    np.testing.assert_array_equal(sampled["frames"], whole["frames"][frames])
    np.testing.assert_array_equal(sampled["times"], whole["times"][frames])
    assert len(SampledClips(ToyClips(HARD, 3), 3)) == 3


def test_half_of_the_evidence_is_not_all_of_it():
    clips = ToyClips(HARD, 60)
    sampled = SampledClips(clips, 3)
    kept = {0, 1, 2, 5, 8}
    whole = [set(np.flatnonzero(clips[i]["evidence"])) <= kept for i in range(60)]
    some = [bool(set(np.flatnonzero(clips[i]["evidence"])) & kept) for i in range(60)]
    assert [sampled.shows_all_evidence(i) for i in range(60)] == whole
    assert 0 < sum(whole) < sum(some) < 60


def test_both_signs_are_asked_for_in_order_and_a_picture_has_no_when():
    signs = draw_signs(clip_rng(HARD, 0), HARD)
    questions = possible_questions(signs, HARD.tasks)
    # which and how_many of 5 signs, when of 3, both of 5 x 4 in order
    assert len(questions) == len({question.text for question in questions}) == 10 + 3 + 20
    first, second = signs[0], signs[4]
    text = question_text("both", first.colour, second.colour)
    (question,) = [question for question in questions if question.text == text]
    assert question.evidence == (first.first_pair, second.first_pair)
    assert question.answer == f"{first.colour} {first.letter} {second.colour} {second.letter}"
    assert question.reply == f" {question.answer}"
    tasks = [ToyClips(HARD, 400)[i]["task"] for i in range(400)]
    assert all(60 < tasks.count(task) < 140 for task in HARD.tasks)  # 100, four deviations 35


def test_the_clock_agrees_with_the_times_of_the_frames():
    for num_pairs, clock in ((12, CLOCK_SECONDS), (4, CLOCK_SECONDS), (40, 40)):
        world = dataclasses.replace(WORLD, num_pairs=num_pairs)
        for index in range(20):
            signs = draw_signs(clip_rng(world, index), world)
            times = frame_times(signs, world)
            for sign in signs:
                assert times[2 * sign.first_pair] == sign.clock
            assert 0 <= times[0] and times[-1] < clock == world.clock_seconds


def test_neighbouring_pairs_of_a_sign_are_near_duplicates():
    signs, frames = drawn(1)
    sign = next(sign for sign in signs if len(sign.marks) == 2)
    first = frames[2 * sign.first_pair].astype(int)
    inside = (slice(sign.top + 2, sign.top + SIGN - 2), slice(sign.left + 2, sign.left + SIGN - 2))
    same = np.abs(frames[2 * sign.first_pair + 2].astype(int)[inside] - first[inside]).mean()
    # The same place without the sign, some pairs away.
    away = frames[2 * ((sign.first_pair + 5) % WORLD.num_pairs)].astype(int)
    assert same < 0.5 * np.abs(away[inside] - first[inside]).mean()


def test_tasks_are_asked_equally_often():
    clips = ToyClips(WORLD, 600)
    tasks = [clips[i]["task"] for i in range(600)]
    for task in TASKS:
        assert 150 < tasks.count(task) < 260  # 200 expected, four standard deviations about 46


def test_labels_name_what_each_pair_shows():
    signs = (Sign("green", 1, 8, "B", "3", "x+", 0, 0),)
    labels = pair_labels(signs, dataclasses.replace(WORLD, num_pairs=4, num_signs=1))
    green = 1 + list(COLOURS).index("green")
    letter = 1 + LETTERS.index("B")
    assert labels.tolist() == [
        [0, 0, 0, 0, 0],
        [green, letter, 3, 2, 9],
        [green, letter, 3, 1, 9],
        [0, 0, 0, 0, 0],
    ]


def test_dialogues_ask_different_questions():
    record = ToyDialogues(WORLD, 3, turns=5)[0]
    assert len(set(record["turns"])) == 5


def test_a_world_that_cannot_be_is_refused():
    for changes, message in [
        ({"num_signs": 7}, "7 signs and 0 pictures need more than the 6 colours"),
        ({"num_signs": 3, "num_pairs": 4, "num_pictures": 2}, "3 signs and 2 pictures do not fit"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"longest_sign": 3}, "longest_sign must be 1 or 2"),
        ({"tasks": ("which", "why")}, "tasks must be among"),
        ({"tasks": ("both",), "num_signs": 1}, "needs two"),
        ({"least_clock": 200}, "200 s do not fit on a clock of 100 s"),
    ]:
        with pytest.raises(ValueError, match=message):
            ToyWorldConfig(**changes)
    with pytest.raises(ValueError, match="too small"):
        ToyWorldConfig(size=30)
