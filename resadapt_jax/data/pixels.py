"""From what a decoder hands out to upright RGB pixels at the size that is wanted."""

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter
from jaxtyping import Int, UInt8
from PIL import Image


class ToRGB:
    """RGB pixels of a video's frames, turned and mirrored as the display matrix says.

    Keeps what the conversion sets up: made anew it costs more than the conversion itself.
    """

    def __init__(self):
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
        pixels = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        matrix = _display_matrix(frame)
        return pixels if matrix is None else turn(pixels, matrix)


def upright_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width that `ToRGB` gives a frame, without converting it."""
    matrix = _display_matrix(frame)
    if matrix is not None and _swaps_axes(matrix):
        return frame.width, frame.height
    return frame.height, frame.width


def _display_matrix(frame: av.VideoFrame) -> Int[np.ndarray, "9"] | None:
    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # beside it are data that PyAV has no name for, as a picture's EXIF
        return None
    return None if matrix is None else np.frombuffer(bytes(matrix), np.int32)


def turn(
    pixels: UInt8[np.ndarray, "height width 3"], matrix: Int[np.ndarray, "9"]
) -> UInt8[np.ndarray, "height2 width2 3"]:
    """Apply a display matrix a b u c d v x y w: (x, y) moves to (a x + c y, b x + d y).

    Its eight turns and mirrorings by right angles are exact; other angles go to the nearest.
    """
    a, b, _, c, d = matrix[:5].tolist()
    if _swaps_axes(matrix):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _swaps_axes(matrix: Int[np.ndarray, "9"]) -> bool:
    a, b, _, c, d = matrix[:5].tolist()
    return abs(b) + abs(c) > abs(a) + abs(d)


def resize(
    pixels: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height2 width2 3"]:
    """Bicubic (a = -0.5) with antialiasing, the filter of the backbone's own preprocessing."""
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))
