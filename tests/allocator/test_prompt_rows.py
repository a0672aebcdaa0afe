"""Images, videos and text of a prompt as rows of the allocator's batch, and back, by hand."""

import re

import numpy as np
import pytest

from resadapt_jax.allocator.prompt_rows import (
    Span,
    VisualEntry,
    join_entries,
    plan_rows,
    split_units,
    tokenize_texts,
)
from resadapt_jax.data.toy_tokenizer import build_toy_tokenizer
from resadapt_jax.errors import UserError

IMAGE = VisualEntry(kind="image")
# A prompt of a video, an image and another video; one without visuals; one of two images.
PROMPTS = [
    [VisualEntry(kind="video", num_frames=3), IMAGE, VisualEntry(kind="video", num_frames=4)],
    [],
    [IMAGE, IMAGE],
]


def numbered(prompts):
    """Frames of one number each: 10 · entry + frame, entries counted over all prompts."""
    count, arrays = 0, []
    for entries in prompts:
        arrays.append([])
        for entry in entries:
            arrays[-1].append(10 * count + np.arange(entry.num_frames)[:, None])
            count += 1
    return arrays


def test_videos_are_joined_and_images_stand_alone():
    rows = plan_rows(PROMPTS)
    # Row 0: both videos; 1: the image between them; 2 and 3: the images of the last prompt.
    assert rows.prompt_index == (0, 0, 2, 2)
    # The second video starts at the third pair, frame 4: the odd frame 3 stays empty.
    assert rows.spans[0] == (
        Span(row=0, start=0, num_frames=3),
        Span(row=1, start=0, num_frames=1),
        Span(row=0, start=4, num_frames=4),
    )
    assert rows.spans[1] == ()
    assert [span.row for span in rows.spans[2]] == [2, 3]
    frames, mask = join_entries(rows, numbered(PROMPTS))
    assert frames.shape == (4, 8, 1)
    np.testing.assert_array_equal(frames[0, :, 0], [0, 1, 2, 0, 20, 21, 22, 23])
    np.testing.assert_array_equal(mask[0], [1, 1, 1, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(frames[1:, 0, 0], [10, 30, 40])
    np.testing.assert_array_equal(mask[1:], np.arange(8) < np.ones((3, 1)))


def test_units_return_to_their_entries():
    rows = plan_rows(PROMPTS)
    # Two allocations (M) of four pairs: 100 · row + 10 · allocation + pair.
    values = np.add.outer(np.add.outer(100 * np.arange(4), [0, 10]), np.arange(4))
    first, image, second = split_units(rows, values)[0]
    np.testing.assert_array_equal(first, [[0, 1], [10, 11]])
    np.testing.assert_array_equal(image, [[100], [110]])
    np.testing.assert_array_equal(second, [[2, 3], [12, 13]])
    assert split_units(rows, values)[1] == []
    np.testing.assert_array_equal(split_units(rows, values)[2][1], [[300], [310]])
    # One value per unit, without allocations.
    np.testing.assert_array_equal(split_units(rows, values[:, 0])[0][2], [2, 3])


def test_single_frames_as_units_leave_no_gap():
    rows = plan_rows(PROMPTS, frames_per_unit=1)
    frames, mask = join_entries(rows, numbered(PROMPTS))
    np.testing.assert_array_equal(frames[0, :, 0], [0, 1, 2, 20, 21, 22, 23])
    assert mask[0].all()
    second = split_units(rows, np.arange(28).reshape(4, 7))[0][2]
    np.testing.assert_array_equal(second, [3, 4, 5, 6])


def test_entries_must_be_those_of_the_plan():
    rows, arrays = plan_rows(PROMPTS), numbered(PROMPTS)
    expected = "entries have [[3, 1, 4], [], [1, 1]] frames, but "
    with pytest.raises(UserError, match=re.escape(f"{expected}[[3, 1], [], [1, 1]] are given")):
        join_entries(rows, [arrays[0][:2], *arrays[1:]])
    with pytest.raises(UserError, match=re.escape(f"{expected}[[2, 1, 4], [], [1, 1]] are given")):
        join_entries(rows, [[arrays[0][0][:2], *arrays[0][1:]], *arrays[1:]])
    with pytest.raises(ValueError, match="of one shape"):
        join_entries(rows, [[arrays[0][0].repeat(2, 1), *arrays[0][1:]], *arrays[1:]])


@pytest.mark.parametrize("kind, count", [("image", 2), ("video", 0)])
def test_impossible_entries(kind, count):
    with pytest.raises(ValueError, match=f"{kind} of {count} frames"):
        VisualEntry(kind=kind, num_frames=count)


def test_prompts_without_visuals_have_no_rows():
    rows = plan_rows([[], []])
    assert rows.prompt_index == () and rows.num_frames == 0
    assert split_units(rows, np.zeros((0, 2, 0))) == [[], []]
    with pytest.raises(UserError, match="there is no image and no video"):
        join_entries(rows, [[], []])


def test_texts_are_the_users_alone():
    tokenizer = build_toy_tokenizer()
    ids, mask = tokenize_texts(tokenizer, [["Red sign?", "Blue."], ["Red"], []])
    joined = tokenizer.encode("Red sign?\nBlue.", add_special_tokens=False)
    assert ids[0].tolist() == joined and mask[0].all()
    assert mask.sum(axis=1).tolist() == [len(joined), len(tokenizer.encode("Red")), 0]
    assert not ids[1][~mask[1]].any()
    wide, _ = tokenize_texts(tokenizer, [["Red"]], length=9)
    assert wide.shape == (1, 9)
    with pytest.raises(UserError, match=f"has {len(joined)} tokens, at most 2 fit"):
        tokenize_texts(tokenizer, [["Red sign?", "Blue."]], length=2)
