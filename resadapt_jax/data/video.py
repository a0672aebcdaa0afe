"""Decode a video once: frames spread evenly over its time, upright, at the backbone's size.

Two passes over the file. The first reads packets without decoding them, which is cheap and tells
every frame's time; the second decodes what the chosen frames need. Memory is that of the kept
frames.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float, Int, UInt8

from resadapt_jax.data.container import (
    Patience,
    Source,
    VideoHeader,
    VideoIndex,
    check_frame_size,
    name_of,
    open_video,
    read_index,
    stated_duration,
    stated_frames,
    video_stream,
)
from resadapt_jax.data.decode import Decoded, decode_all, decode_chosen, first_frame
from resadapt_jax.data.frame_sampling import frames_within, spread
from resadapt_jax.data.frame_size import native_size
from resadapt_jax.data.pixels import ToRGB, resize, upright_size
from resadapt_jax.errors import UserError
from resadapt_jax.operators.sizes import SizeLimits

_HEADER_SECONDS = 8.0


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoClip:
    """Frames sampled from one video.

    Attributes:
        frames: RGB, upright, all of the size the backbone's own preprocessing would give them.
        times: seconds from the file's first frame, strictly increasing.
        source_height, source_width: upright size in the file, in pixels.
        duration: seconds from the first frame's start to the last frame's end.
        frames_lost: frames of the file that could not be read, or not decoded whole where they had
            to be decoded; an estimate where the container keeps no count.
        share_lost: of the file's frames, 0 to 1.
        warnings: what the user should be told, a line each.
    """

    frames: UInt8[np.ndarray, "F height width 3"]
    times: Float[np.ndarray, " F"]
    source_height: int
    source_width: int
    duration: float
    frames_lost: int
    share_lost: float
    warnings: tuple[str, ...]


def sample(
    path: str | os.PathLike,
    *,
    num_frames: int = 32,
    limits: SizeLimits | None = None,
) -> VideoClip:
    """Sample frames at even times between the first and the last frame of a video.

    The times are those in the file, so a variable frame rate does no harm. A clip with fewer
    frames than asked for gives all of them, each once. Rotations and mirrorings in the file are
    applied; pixels are taken as square, as the backbone's own readers do. Frames that do not
    decode are counted, and their neighbours in time take their place.

    Args:
        path: a local file in any container of moving pictures that FFmpeg knows.
        num_frames: frames to return, at most.
        limits: legal sizes of a frame, resized once, bicubic and antialiased; the default caps a
            frame at 768 tokens of 28 x 28 pixels, as Qwen2.5-VL.

    Raises:
        UserError: no such file, not a video, no frame in it, nothing decodes, or an absurd size.
    """
    if num_frames < 1:
        raise UserError(f"the number of frames must be at least 1, got {num_frames}")
    path = Path(path)
    return read_clip(path, read_index(path), num_frames, limits=limits)


def read_clip(
    source: Source,
    index: VideoIndex,
    num_frames: int,
    *,
    start: float | None = None,
    end: float | None = None,
    limits: SizeLimits | None = None,
    patience: Patience | None = None,
) -> VideoClip:
    """`sample` of a file, or of the bytes of one, whose packets have been read.

    Args:
        start, end: seconds between which frames are taken, the whole clip if not given.
        patience: how long it may take.

    Raises:
        UserError: as `sample`; or no frame after ``start``, or it takes too long.
    """
    patience = patience or Patience()
    inside = index.times[_within(source, index.times, start, end)]
    wanted = inside[spread(inside, num_frames)]
    fit = _Fit(source, limits or SizeLimits())
    taken = decode_chosen(source, index, wanted, fit, patience)
    if taken is None:
        fit = _Fit(source, limits or SizeLimits())
        taken = decode_all(source, index, wanted, fit, patience)
        whole = np.array(taken.whole_times)
        if len(whole):
            whole = whole[_within(source, whole, start, end)]
        if len(taken.times) < min(num_frames, len(whole)):  # spread over what is whole
            taken = decode_all(source, index, whole[spread(whole, num_frames)], fit, patience)
    if not taken.times:
        raise UserError(f"no frame of {name_of(source)} could be decoded")
    lost = index.frames_missing + taken.lost(index)
    return VideoClip(
        frames=np.stack(taken.frames),
        times=np.array(taken.times),
        source_height=fit.source_size[0],
        source_width=fit.source_size[1],
        duration=index.duration,
        frames_lost=lost,
        share_lost=lost / (lost + taken.whole) if lost else 0.0,
        warnings=_warnings(source, lost, taken),
    )


def read_header(source: Source) -> VideoHeader:
    """What a video states of itself; no more than its first frame is decoded, to see it upright.

    Raises:
        UserError: see `open_video`; or no video stream.
    """
    patience = Patience(_HEADER_SECONDS)
    with open_video(source, patience) as container:
        stream = video_stream(container, source)
        duration = stated_duration(container, stream)
        num_frames = stated_frames(container, stream)
        height, width = stream.codec_context.height, stream.codec_context.width
        frame = first_frame(container, stream, source, patience)
        if frame is not None:
            height, width = upright_size(frame)
    if not duration:
        duration = read_index(source, patience).duration
    return VideoHeader(duration=duration, num_frames=num_frames, height=height, width=width)


def _within(
    source: Source, times: Float[np.ndarray, " F"], start: float | None, end: float | None
) -> Int[np.ndarray, " G"]:
    try:
        return frames_within(times, start, end)
    except UserError as error:
        raise UserError(f"{name_of(source)}: {error}") from error


class _Fit:
    """Makes of a decoded frame upright pixels of the size that the first one gets."""

    def __init__(self, source: Source, limits: SizeLimits):
        self._source, self._limits = source, limits
        self._to_rgb = ToRGB()
        self._size = self.source_size = (0, 0)

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
        check_frame_size(frame, self._source)
        pixels = self._to_rgb(frame)
        if not any(self._size):
            self.source_size = pixels.shape[:2]
            try:
                self._size = native_size(*self.source_size, self._limits)
            except UserError as error:
                raise UserError(f"cannot use {name_of(self._source)}: {error}") from error
        return resize(pixels, self._size)


def _warnings(source: Source, lost: int, taken: Decoded) -> tuple[str, ...]:
    if not lost:
        return ()
    return (f"{name_of(source)} is damaged: {lost} of {lost + taken.whole} frames were lost",)
