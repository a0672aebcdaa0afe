"""Decode a video once: frames spread evenly over its time, upright, at the backbone's size.

Two passes over the file. The first reads packets without decoding them, which is cheap and tells
every frame's time; the second decodes the whole clip one frame at a time, keeps the chosen ones,
and so knows what did not decode. Memory is that of the kept frames.
"""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from jaxtyping import Float, Int, UInt8
from PIL import Image

from resadapt_jax.data.container import (
    VideoIndex,
    open_video,
    read_index,
    read_packets,
    video_stream,
)
from resadapt_jax.errors import UserError
from resadapt_jax.operators.sizes import SizeLimits, smart_resize


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoClip:
    """Frames sampled from one video.

    Attributes:
        frames: RGB, upright, all of the size the backbone's own preprocessing would give them.
        times: seconds from the clip's first frame, strictly increasing.
        source_height, source_width: upright size in the file, in pixels.
        duration: seconds from the first frame's start to the last frame's end.
        frames_lost: frames of the file that could not be read or decoded whole; an estimate where
            the container keeps no count.
        warnings: what the user should be told, a line each.
    """

    frames: UInt8[np.ndarray, "F height width 3"]
    times: Float[np.ndarray, " F"]
    source_height: int
    source_width: int
    duration: float
    frames_lost: int
    warnings: tuple[str, ...]


def sample(
    path: str | os.PathLike,
    *,
    num_frames: int = 32,
    fps: float | None = None,
    limits: SizeLimits | None = None,
) -> VideoClip:
    """Sample frames at even times between the first and the last frame of a video.

    The times are those in the file, so a variable frame rate does no harm. A clip with fewer
    frames than asked for gives all of them, each once. Rotations and mirrorings in the file are
    applied; pixels are taken as square, as the backbone's own readers do. Frames that do not
    decode are counted, and their neighbours in time take their place.

    Args:
        path: a local file in any container FFmpeg knows.
        num_frames: frames to return, at most.
        fps: if given, frames per second of video, rounded to an even count.
        limits: legal sizes of a frame, resized once, bicubic and antialiased; the default caps a
            frame at 768 tokens of 28 x 28 pixels, as Qwen2.5-VL.

    Raises:
        UserError: no such file, not a video, no frame in it, nothing decodes, or an absurd size.
    """
    if num_frames < 1:
        raise UserError(f"the number of frames must be at least 1, got {num_frames}")
    if fps is not None and not fps > 0:
        raise UserError(f"frames per second must be positive, got {fps}")
    path = Path(path)
    index = read_index(path)
    if fps is not None:
        num_frames = min(num_frames, 2 * max(1, round(index.duration * fps / 2)))
    taken = _take(path, index, index.times[spread(index.times, num_frames)], limits)
    whole = np.array(taken.whole_times)
    if len(taken.times) < min(num_frames, len(whole)):  # damage struck: spread over what is whole
        taken = _take(path, index, whole[spread(whole, num_frames)], limits)
    if not taken.times:
        raise UserError(f"no frame of {path} could be decoded")
    lost = index.frames_missing + taken.lost(index)
    return VideoClip(
        frames=np.stack(taken.frames),
        times=np.array(taken.times),
        source_height=taken.source_size[0],
        source_width=taken.source_size[1],
        duration=index.duration,
        frames_lost=lost,
        warnings=_warnings(path, lost, taken.whole),
    )


def spread(times: Float[np.ndarray, " F"], count: int) -> Int[np.ndarray, " N"]:
    """Indices of min(F, count) different frames, as evenly spaced in time as the frames allow.

    Frame i of the result is the one nearest to t_first + (t_last - t_first) · i / (count - 1),
    or its nearest free neighbour where several targets fall on one frame.

    Args:
        times: strictly increasing.
    """
    total = len(times)
    count = min(total, count)
    targets = np.linspace(times[0], times[-1], count)
    after = np.clip(np.searchsorted(times, targets), 1, max(total - 1, 1))
    before = after - 1
    after = np.minimum(after, total - 1)
    nearest = np.where(targets - times[before] <= times[after] - targets, before, after)
    rank = np.arange(count)
    different = np.maximum.accumulate(nearest - rank) + rank
    return np.minimum(different, total - count + rank)


@dataclass
class _Taken:
    """What one pass of decoding took, and what left the decoder whole, patched up, or never."""

    times: list[float] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    source_size: tuple[int, int] = (0, 0)  # upright height and width
    whole_times: list[float] = field(default_factory=list)
    whole: int = 0
    patched: int = 0
    errors: int = 0

    def lost(self, index: VideoIndex) -> int:
        """Frames patched up, and packets without a frame; after an error only, since some codecs
        have such packets by design.
        """
        silent = index.num_packets - self.whole - self.patched
        return self.patched + (max(self.errors, silent) if self.errors else 0)


def _take(
    path: Path, index: VideoIndex, wanted: Float[np.ndarray, " N"], limits: SizeLimits | None
) -> _Taken:
    """Decodes the file and takes the frames nearest to the wanted times."""
    taken = _Taken()
    with open_video(path) as container:
        stream = video_stream(container, path)
        # Slice threads (PyAV's default) switch FFmpeg's concealment of damage off, and frame
        # threads drop frames that follow damage near the end.
        stream.thread_type = "NONE"
        frames = _timed(_frames(container, stream, taken), stream, index, taken)
        for time, frame in _nearest(frames, wanted):
            pixels = _upright(frame)
            if not taken.times:
                taken.source_size = pixels.shape[:2]
            taken.times.append(time)
            taken.frames.append(_resize(pixels, _native_size(*taken.source_size, limits, path)))
    return taken


def _native_size(height: int, width: int, limits: SizeLimits | None, path: Path) -> tuple[int, int]:
    try:
        return smart_resize(height, width, limits or SizeLimits())
    except ValueError as error:
        raise UserError(f"cannot use {path}: {error}") from error


def _frames(
    container: InputContainer, stream: av.VideoStream, taken: _Taken
) -> Iterator[av.VideoFrame]:
    """Everything that leaves the decoder; a packet it refuses is counted and passed over."""
    for packet in chain(read_packets(container, stream), (None,)):  # None empties the decoder
        try:
            frames = stream.decode(packet)
        except FFmpegError:
            taken.errors += 1
            continue
        damaged = sum(frame.is_corrupt for frame in frames)
        taken.patched += damaged
        taken.whole += len(frames) - damaged
        yield from frames


def _timed(
    frames: Iterator[av.VideoFrame], stream: av.VideoStream, index: VideoIndex, taken: _Taken
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Whole frames with their times, unless a time is missing or runs backwards."""
    latest = -np.inf
    for time, frame in zip(chain(index.times, repeat(np.nan)), frames, strict=False):
        if not index.in_order:
            known = frame.pts is not None
            time = float(frame.pts * stream.time_base) - index.start if known else np.nan
        if time > latest and not frame.is_corrupt:
            latest = time
            taken.whole_times.append(float(time))
            yield float(time), frame


def _nearest(
    frames: Iterator[tuple[float, av.VideoFrame]], wanted: Float[np.ndarray, " N"]
) -> Iterator[tuple[float, av.VideoFrame]]:
    """For each wanted time the frame nearest to it, no frame twice; reads all frames."""
    wanted = deque(wanted)
    before = given = None
    for now in frames:
        while wanted and wanted[0] <= now[0]:
            target = wanted.popleft()
            nearest = before if before and target - before[0] < now[0] - target else now
            if nearest is not given:
                given = nearest
                yield nearest
        before = now
    if wanted and before is not given:
        yield before


def _upright(frame: av.VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels, turned and mirrored as the display matrix in the file says."""
    pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return pixels if matrix is None else turn(pixels, np.frombuffer(bytes(matrix), np.int32))


def turn(
    pixels: UInt8[np.ndarray, "height width 3"], matrix: Int[np.ndarray, "9"]
) -> UInt8[np.ndarray, "height2 width2 3"]:
    """Apply a display matrix a b u c d v x y w: (x, y) moves to (a x + c y, b x + d y).

    Its eight turns and mirrorings by right angles are exact; other angles go to the nearest.
    """
    a, b, _, c, d = matrix[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _resize(
    pixels: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height2 width2 3"]:
    """Bicubic (a = -0.5) with antialiasing, the filter of the backbone's own preprocessing."""
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))


def _warnings(path: Path, lost: int, whole: int) -> tuple[str, ...]:
    if not lost:
        return ()
    return (f"{path} is damaged: {lost} of {lost + whole} frames were lost",)
