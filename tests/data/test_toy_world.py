"""The embedded world: legible only in places, deterministic, honest about its answers."""

import dataclasses

import numpy as np
import pytest

from resadapt_jax.data.toy_source import ToyClips, ToyDialogues, pair_labels
from resadapt_jax.data.toy_world import (
    BORDER,
    CLOCK_GLYPHS,
    CLOCK_SECONDS,
    COLOURS,
    GLYPHS,
    LETTERS,
    SIGN,
    TASKS,
    Sign,
    ToyWorldConfig,
    ask,
    clip_rng,
    draw_signs,
    frame_times,
    possible_questions,
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
    asked = {(question.task, question.colour) for question in possible_questions(signs)}
    assert asked == {(task, sign.colour) for task in TASKS for sign in signs}


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
    with pytest.raises(ValueError, match="7 signs do not fit"):
        ToyWorldConfig(num_signs=7)
    with pytest.raises(ValueError, match="too small"):
        ToyWorldConfig(size=30)
