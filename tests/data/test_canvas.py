"""Media of a prompt on one canvas, by hand."""

import numpy as np
import pytest

from resadapt_jax.data.canvas import place_media, segment_ids


def numbered(count, height, width, first):
    """Frames of one grey level each, counted from ``first``."""
    return np.broadcast_to(
        np.arange(first, first + count, dtype=np.uint8)[:, None, None, None],
        (count, height, width, 3),
    )


def test_a_video_an_image_and_another_video():
    canvas = place_media([numbered(3, 4, 6, 1), numbered(1, 8, 2, 40), numbered(2, 2, 2, 60)])
    # Pairs (1 2) (3 3) (40 40) (60 61); what is there twice counts once.
    assert canvas.frames.shape == (8, 8, 6, 3)
    assert canvas.frames[:, 0, 0, 0].tolist() == [1, 2, 3, 3, 40, 40, 60, 61]
    assert canvas.frame_mask.tolist() == [True, True, True, False, True, False, True, True]
    assert canvas.medium.tolist() == [0, 0, 1, 2]
    assert canvas.source_heights.tolist() == [4, 4, 8, 2] and canvas.source_widths.tolist() == [
        6,
        6,
        2,
        2,
    ]
    # A picture fills its own corner, the rest is 0.
    assert (canvas.frames[4, :8, :2] == 40).all() and not canvas.frames[4, :, 2:].any()
    assert not canvas.frames[0, 4:].any()
    # Videos are one segment for the allocator whatever lies between them, an image is its own.
    assert (
        segment_ids(["video", "image", "video"], canvas.medium).tolist()
        == [0] * 4 + [2] * 2 + [0] * 2
    )


def test_a_canvas_larger_than_its_media():
    canvas = place_media([numbered(1, 2, 2, 5)], num_pairs=3, height=4, width=4)
    assert canvas.frames.shape == (6, 4, 4, 3)
    assert canvas.medium.tolist() == [0, -1, -1] and canvas.source_heights.tolist() == [2, 0, 0]
    assert canvas.frame_mask.tolist() == [True] + [False] * 5
    assert segment_ids(["image"], canvas.medium).tolist() == [1, 1, 0, 0, 0, 0]
    empty = place_media([], num_pairs=1, height=2, width=2)
    assert not empty.frame_mask.any() and empty.medium.tolist() == [-1]


@pytest.mark.parametrize("room", [{"num_pairs": 1}, {"height": 3}, {"width": 5}])
def test_a_canvas_that_is_too_small(room):
    with pytest.raises(ValueError, match="do not fit"):
        place_media([numbered(3, 4, 6, 1)], **room)
