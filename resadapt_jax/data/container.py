"""What a video file says of itself before anything is decoded, and how much of it is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from jaxtyping import Float

from resadapt_jax.errors import UserError

MAX_SOURCE_PIXELS = 2**26
"""Frames above this (twice 8K) are refused before a decoder allocates memory for them."""

# FFmpeg draws text and binary files as ANSI art; none of that is a video.
_TEXT_ART = {"adf", "bin", "idf", "tty", "xbin"}

# Between the blocks of a healthy Matroska file lie headers of some 30 bytes.
_MATROSKA_HEADER_BYTES = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoIndex:
    """What the packets of a video tell before any is decoded.

    Attributes:
        times: of the frames in presentation order, in seconds from the first.
        start: the first frame's time in the file.
        in_order: frames carry no times of their own: the n-th to leave the decoder has the n-th.
        duration: seconds.
        num_packets: packets that should each give a frame.
        frames_missing: frames that have no packet, by the container's count or by gaps in time.
    """

    times: Float[np.ndarray, " F"]
    start: float
    in_order: bool
    duration: float
    num_packets: int
    frames_missing: int


class _Packet(NamedTuple):
    """What is kept of a packet after the first pass; times in ticks but for `end`."""

    stream: int
    pts: int | None
    any_time: int | None  # presentation time, or else decoding time
    end: float  # seconds
    position: int | None  # in bytes
    size: int
    corrupt: bool
    discard: bool

    @classmethod
    def of(cls, packet: av.Packet) -> "_Packet":
        time = packet.dts if packet.pts is None else packet.pts
        return cls(
            stream=packet.stream_index,
            pts=packet.pts,
            any_time=time,
            end=float(((time or 0) + (packet.duration or 0)) * packet.time_base),
            position=packet.pos,
            size=packet.size,
            corrupt=packet.is_corrupt,
            discard=packet.is_discard,
        )


def open_video(path: Path) -> InputContainer:
    """Open a local file; close it with ``with``.

    Raises:
        UserError: no such file, not a file, or nothing FFmpeg can read as a video.
    """
    if not path.exists():
        raise UserError(f"no such file: {path}")
    if not path.is_file():
        raise UserError(f"not a file: {path}")
    try:
        # The prefix keeps FFmpeg from reading "a:b.mp4" as a protocol.
        container = av.open(f"file:{path}")
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"not a video, or damaged beyond reading: {path} ({reason})") from error
    if container.format.name in _TEXT_ART:
        container.close()
        raise UserError(f"not a video: {path}")
    return container


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    """The first stream of moving pictures; the cover picture of a song is none."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            height, width = stream.codec_context.height, stream.codec_context.width
            if height * width > MAX_SOURCE_PIXELS:
                raise UserError(f"frames of {path} are too large to decode: {width} x {height}")
            return stream
    raise UserError(f"{path} has no video stream")


def read_packets(container: InputContainer, *streams: av.VideoStream) -> Iterator[av.Packet]:
    """Packets with a payload, until the end of the file or of what can be read of it."""
    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        if packet.size:
            yield packet


def read_index(path: Path) -> VideoIndex:
    """Read every packet of a video without decoding any.

    Raises:
        UserError: see `open_video`; or there is no video stream, or not one frame in it.
    """
    with open_video(path) as container:
        stream = video_stream(container, path)
        packets = [_Packet.of(packet) for packet in read_packets(container)]
        video = [p for p in packets if p.stream == stream.index]
        shown = [p for p in video if not p.discard]
        if not shown:
            raise UserError(f"{path} holds no video frame that can be read")
        absolute, in_order = _stamps(shown, container, stream)
        times = absolute - absolute[0]
        step = float(np.median(np.diff(times))) if len(times) > 1 else _nominal_interval(stream)
        if "mp4" in container.format.name:
            missing = max(len(stream.index_entries) - len(video), 0)
        else:
            missing = _uncovered(times, step, packets, container)
    return VideoIndex(
        times=times,
        start=float(absolute[0]),
        in_order=in_order,
        duration=float(times[-1]) + step,
        num_packets=len(shown),
        frames_missing=missing,
    )


def _stamps(
    video: list[_Packet], container: InputContainer, stream: av.VideoStream
) -> tuple[Float[np.ndarray, " F"], bool]:
    """Times of the frames in the file, in presentation order, and whether they go by order.

    AVI has only decoding times, raw streams have none: their frames are numbered instead.
    """
    in_order = "avi" in container.format.name or any(p.pts is None for p in video)
    if any(p.any_time is None for p in video):
        return np.arange(len(video)) * _nominal_interval(stream), True
    ticks = {p.any_time for p in video}
    return np.array(sorted(float(tick * stream.time_base) for tick in ticks)), in_order


def _nominal_interval(stream: av.VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.04


def _uncovered(
    times: Float[np.ndarray, " F"],
    step: float,
    packets: list[_Packet],
    container: InputContainer,
) -> int:
    """Estimates the frames the reader never met, where the container does not list its frames.

    Counted are the gaps in time, if anything was skipped (else they are a variable frame rate),
    and the end of the clip, if the header promises a longer one.
    """
    count = 0
    if any(p.corrupt for p in packets) or _has_hole(packets, container):
        gaps = np.diff(times) / step
        count += int(np.sum(np.round(gaps[gaps > 1.5]) - 1))
    promised = (container.duration or 0) / av.time_base
    short = promised - max(p.end for p in packets)
    return count + (round(short / step) if short > max(0.5, 2 * step) else 0)


def _has_hole(packets: list[_Packet], container: InputContainer) -> bool:
    """Matroska readers pass over what they cannot parse without a word, but not its bytes."""
    if "matroska" not in container.format.name:
        return False
    places = sorted((p.position, p.size) for p in packets if p.position is not None)
    ends = [position + size for position, size in places]
    starts = [position for position, _ in places[1:]]
    return any(b - a > _MATROSKA_HEADER_BYTES for a, b in zip(ends, starts, strict=False))
