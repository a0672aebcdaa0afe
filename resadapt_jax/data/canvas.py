"""Images and videos of a prompt side by side: one array of frames, pair by pair."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from resadapt_jax.typing import Bool, Int, UInt8

Kind = Literal["image", "video"]


class Canvas(NamedTuple):
    """The frames of a prompt's media, each in the top left corner of a common canvas.

    Every medium begins at a whole pair. Where it has an odd number of frames, as an image has, the
    last is there twice and counts once: a pair is what a backbone takes.

    Attributes:
        frames: zeros beyond a picture, and where there is none.
        frame_mask: frames that count.
        medium: which of the media a pair belongs to, -1 for none.
        source_heights, source_widths: of a pair's pictures in pixels, 0 for none.
    """

    frames: UInt8[np.ndarray, "F height width 3"]
    frame_mask: Bool[np.ndarray, " F"]
    medium: Int[np.ndarray, " E"]
    source_heights: Int[np.ndarray, " E"]
    source_widths: Int[np.ndarray, " E"]


def place_media(
    media: Sequence[UInt8[np.ndarray, "f h w 3"]],
    *,
    num_pairs: int | None = None,
    height: int | None = None,
    width: int | None = None,
) -> Canvas:
    """Lays media one behind the other.

    Args:
        media: the frames of each.
        num_pairs, height, width: of the canvas; by default what the media need.

    Raises:
        ValueError: the canvas is too small.
    """
    pairs = [-(-len(frames) // 2) for frames in media]
    need = sum(pairs), *(max((x.shape[i] for x in media), default=1) for i in (1, 2))
    asked = num_pairs, height, width
    room = tuple(n if given is None else given for n, given in zip(need, asked, strict=True))
    if any(n > most for n, most in zip(need, room, strict=True)):
        raise ValueError(f"media of {need} pairs, rows and columns do not fit on {room}")
    num_pairs, height, width = room
    medium = np.full(num_pairs, -1, np.int32)
    medium[: sum(pairs)] = np.repeat(np.arange(len(media)), pairs)
    canvas = Canvas(
        frames=np.zeros((2 * num_pairs, height, width, 3), np.uint8),
        frame_mask=np.zeros(2 * num_pairs, bool),
        medium=medium,
        source_heights=np.zeros(num_pairs, np.int32),
        source_widths=np.zeros(num_pairs, np.int32),
    )
    for number, frames in enumerate(media):
        _, rows, cols, _ = frames.shape
        own = medium == number
        start, stop = 2 * int(np.argmax(own)), 2 * int(np.argmax(own)) + len(frames)
        canvas.frames[start:stop, :rows, :cols] = frames
        canvas.frame_mask[start:stop] = True
        if len(frames) % 2:
            canvas.frames[stop] = canvas.frames[stop - 1]
        canvas.source_heights[own], canvas.source_widths[own] = rows, cols
    return canvas


def segment_ids(kinds: Sequence[Kind], medium: Int[np.ndarray, " E"]) -> Int[np.ndarray, " F"]:
    """What the allocator sees together: all videos are segment 0, each image is one by itself."""
    of_media = [0 if kind == "video" else 1 + i for i, kind in enumerate(kinds)]
    return np.array([*of_media, 0], np.int32)[medium].repeat(2)
