"""What a video file says of itself before anything is decoded, and how much of it is missing."""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import EOFError as FFmpegEOFError
from av.error import ExitError, FFmpegError, InvalidDataError
from av.stream import Disposition
from jaxtyping import Float

from resadapt_jax.errors import UserError

MAX_SOURCE_PIXELS = 2**26
"""Frames above this (twice 8K) are refused before a decoder allocates memory for them."""

MAX_SOURCE_SIDE = 2**14
"""Frames wider or higher than this (twice 8K) are refused too: damaged headers say such things."""

MAX_PACKETS = 2**21
"""Files of more packets are refused: ten hours at fifty frames a second have fewer."""

Source = Path | bytes
"""A local file, or the bytes of one."""

# By FFmpeg's names. Not among them: lists of other files (concat, hls, dash), which would lead out
# of the folder the media are in, and text that FFmpeg draws as ANSI art.
_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,ivf,nut,mxf,wtv,rm,"
    "dv,h264,hevc,vvc,m4v,obu,av1,h263,vc1,swf,wav,mp3,flac,aac,"
    "image2,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,gif_pipe,tiff_pipe"
)

# By the clock: to open a file, at least and at most, and to read a packet.
_INSTANT, _OPEN_SECONDS, _READ_SECONDS = 0.1, 8.0, 8.0
_LEAST_SECONDS = 6.0
_DAMAGED_SECONDS = 5.0
_SECONDS_PER_BYTE = 1e-6  # of compressed video a slow core decodes some megabytes a second
_SECONDS_PER_PACKET = 0.01  # in which a slow core decodes a frame of 1080 lines

# Between the blocks of a healthy Matroska file lie headers of some 30 bytes.
_MATROSKA_HEADER_BYTES = 128


class Patience:
    """How much work a file may be: what is damaged gets less than what is sound.

    Counted are the seconds that this thread computes, so that a busy machine gives up no file that
    an idle one reads. Waiting for the disk is limited where a file is opened and read.

    Args:
        seconds: from now on; ``None``: without a limit, damaged or not.
        most: that `allow` may bring it to; ``seconds`` by default.
    """

    def __init__(self, seconds: float | None = None, most: float | None = None):
        self._limited = seconds is not None
        start = time.thread_time()
        self._until = start + seconds if self._limited else np.inf
        self._latest = start + most if most is not None else self._until

    @classmethod
    def with_file(cls, source: Source, most: float) -> "Patience":
        """Six seconds and one for each megabyte, ``most`` at most.

        A header that lies of the size of the frames makes much work of a small file.
        """
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        return cls(min(most, _LEAST_SECONDS + size * _SECONDS_PER_BYTE), most)

    @property
    def left(self) -> float:
        """Seconds."""
        return max(self._until - time.thread_time(), 0.0)

    def allow(self, packets: int) -> None:
        """Says how many packets there are: a long video of few bytes is work too."""
        self._until = min(self._until + packets * _SECONDS_PER_PACKET, self._latest)

    def damaged(self) -> None:
        """Says that the file is damaged."""
        if self._limited:
            self._until = min(self._until, time.thread_time() + _DAMAGED_SECONDS)

    def check(self, source: Source) -> None:
        """Raises ``UserError`` once the time is over."""
        if time.thread_time() > self._until:
            raise UserError(f"{name_of(source)} takes too long to read")


@dataclass(frozen=True, kw_only=True)
class VideoHeader:
    """What a container states, true or not.

    Attributes:
        duration: seconds.
        num_frames: ``None`` if nothing says so.
        height, width: in pixels, upright; of the first frame if it decodes.
    """

    duration: float
    num_frames: int | None
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoIndex:
    """What the packets of a video tell before any is decoded.

    Attributes:
        times: of the frames in presentation order, in seconds from the first.
        start: the first frame's time in the file.
        in_order: frames carry no times of their own: the n-th to leave the decoder has the n-th.
        duration: seconds.
        packets: of the stream, in the file's order.
        frames_missing: frames that have no packet, by the container's count or by gaps in time.
        stated_duration, stated_frames: what the container says, as in `VideoHeader`.
    """

    times: Float[np.ndarray, " F"]
    start: float
    in_order: bool
    duration: float
    packets: "tuple[PacketFacts, ...]"
    frames_missing: int
    stated_duration: float
    stated_frames: int | None

    @property
    def num_packets(self) -> int:
        """Packets that should each give a frame."""
        return sum(not packet.discard for packet in self.packets)


class PacketFacts(NamedTuple):
    """What is kept of a packet after the first pass; times in ticks but for `end`."""

    pts: int | None
    any_time: int | None  # presentation time, or else decoding time
    end: float  # seconds
    position: int | None  # in bytes
    size: int
    corrupt: bool
    discard: bool
    keyframe: bool

    @classmethod
    def of(cls, packet: av.Packet) -> "PacketFacts":
        time = packet.dts if packet.pts is None else packet.pts
        return cls(
            pts=packet.pts,
            any_time=time,
            end=seconds_of((time or 0) + (packet.duration or 0), packet.time_base),
            position=packet.pos,
            size=packet.size,
            corrupt=packet.is_corrupt,
            discard=packet.is_discard,
            keyframe=packet.is_keyframe,
        )


def seconds_of(ticks: int, time_base: Fraction) -> float:
    """float(ticks · time_base); a product of fractions would take most of reading an index."""
    return ticks * time_base.numerator / time_base.denominator


def name_of(source: Source) -> str:
    """What to call a source in a message."""
    return "the row's bytes" if isinstance(source, bytes) else str(source)


def open_video(source: Source, patience: Patience | None = None) -> InputContainer:
    """Open a local file, or the bytes of one; close it with ``with``.

    Raises:
        UserError: no such file, not a file, nothing FFmpeg can read as a video, or no patience
            left.
    """
    patience = patience or Patience()
    patience.check(source)
    if isinstance(source, bytes):
        file = io.BytesIO(source)
    else:
        if not source.exists():
            raise UserError(f"no such file: {source}")
        if not source.is_file():
            raise UserError(f"not a file: {source}")
        # The prefix keeps FFmpeg from reading "a:b.mp4" as a protocol.
        file = f"file:{source}"
    options = {"format_whitelist": _FORMATS}
    try:
        timeout = min(_OPEN_SECONDS, patience.left + _INSTANT), _READ_SECONDS
        return av.open(file, container_options=options, timeout=timeout)
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        name = name_of(source)
        raise UserError(f"not a video, or damaged beyond reading: {name} ({reason})") from error


def video_stream(container: InputContainer, source: Source) -> av.VideoStream:
    """The first stream of moving pictures; the cover picture of a song is none."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise UserError(f"{name_of(source)} has video of a codec that is not known")
            check_frame_size(stream.codec_context, source)
            # The stream itself may say another size than its container: before memory is taken.
            stream.codec_context.options = {"max_pixels": str(MAX_SOURCE_PIXELS)}
            return stream
    raise UserError(f"{name_of(source)} has no video stream")


def check_frame_size(frame: av.VideoFrame | av.VideoCodecContext, source: Source) -> None:
    """Refuses frames above `MAX_SOURCE_PIXELS` or `MAX_SOURCE_SIDE`.

    Raises:
        UserError: they are.
    """
    height, width = frame.height, frame.width
    if height * width > MAX_SOURCE_PIXELS or max(height, width) > MAX_SOURCE_SIDE:
        name = name_of(source)
        raise UserError(f"frames of {name} are too large to decode: {width} x {height}")


def read_packets(
    container: InputContainer, *streams: av.VideoStream, patience: Patience, source: Source
) -> Iterator[av.Packet]:
    """Packets with a payload, until the end of the file or of what can be read of it.

    Raises:
        UserError: the disk gives an error or no answer, or no patience is left.
    """
    packets = container.demux(*streams)
    while True:
        patience.check(source)
        try:
            packet = next(packets)
        except (StopIteration, FFmpegEOFError, InvalidDataError):
            return
        except FFmpegError as error:
            reason = "no answer" if isinstance(error, ExitError) else error.strerror
            raise UserError(f"{name_of(source)} cannot be read to its end: {reason}") from error
        if packet.size:
            yield packet


def read_index(source: Source, patience: Patience | None = None) -> VideoIndex:
    """Read every packet of a video without decoding any.

    Raises:
        UserError: see `open_video`; or there is no video stream, not one frame in it, far too
            many packets, or no patience left.
    """
    patience = patience or Patience()
    with open_video(source, patience) as container:
        stream = video_stream(container, source)
        # Before anything is read: some readers change what they state on the way.
        stated = stated_duration(container, stream), stated_frames(container, stream)
        video, others = [], []
        # An mp4 lists its frames; in others the packets of all streams tell what is missing.
        streams = (stream,) if _lists_frames(container) else ()
        for packet in read_packets(container, *streams, patience=patience, source=source):
            (video if packet.stream_index == stream.index else others).append(
                PacketFacts.of(packet)
            )
            if len(video) + len(others) > MAX_PACKETS:
                raise UserError(f"{name_of(source)} has more than {MAX_PACKETS} packets")
        shown = [p for p in video if not p.discard]
        if not shown:
            raise UserError(f"{name_of(source)} holds no video frame that can be read")
        patience.allow(len(video))
        absolute, in_order = _stamps(shown, container, stream)
        times = absolute - absolute[0]
        step = float(np.median(np.diff(times))) if len(times) > 1 else _nominal_interval(stream)
        if _lists_frames(container):
            missing = max(len(stream.index_entries) - len(video), 0)
        else:
            missing = _uncovered(times, step, video + others, container)
        duration = float(times[-1]) + step
        return VideoIndex(
            times=times,
            start=float(absolute[0]),
            in_order=in_order,
            duration=duration,
            packets=tuple(video),
            frames_missing=missing,
            stated_duration=stated[0] or duration,
            stated_frames=stated[1],
        )


def _lists_frames(container: InputContainer) -> bool:
    return "mp4" in container.format.name


def stated_duration(container: InputContainer, stream: av.VideoStream) -> float:
    """Seconds; zero if nothing says so."""
    if stream.duration and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    return max(container.duration or 0, 0) / av.time_base


def stated_frames(container: InputContainer, stream: av.VideoStream) -> int | None:
    """``None`` if nothing says so."""
    if stream.frames > 0:
        return stream.frames
    duration, rate = stated_duration(container, stream), stream.average_rate
    return max(1, round(duration * rate)) if duration and rate else None


def _stamps(
    video: list[PacketFacts], container: InputContainer, stream: av.VideoStream
) -> tuple[Float[np.ndarray, " F"], bool]:
    """Times of the frames in the file, in presentation order, and whether they go by order.

    AVI has only decoding times, raw streams have none: their frames are numbered instead.
    """
    in_order = "avi" in container.format.name or any(p.pts is None for p in video)
    if any(p.any_time is None for p in video):
        return np.arange(len(video)) * _nominal_interval(stream), True
    ticks = {p.any_time for p in video}
    return np.array(sorted(seconds_of(tick, stream.time_base) for tick in ticks)), in_order


def _nominal_interval(stream: av.VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.04


def _uncovered(
    times: Float[np.ndarray, " F"],
    step: float,
    packets: list[PacketFacts],
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


def _has_hole(packets: list[PacketFacts], container: InputContainer) -> bool:
    """Matroska readers pass over what they cannot parse without a word, but not its bytes."""
    if "matroska" not in container.format.name:
        return False
    places = sorted((p.position, p.size) for p in packets if p.position is not None)
    ends = [position + size for position, size in places]
    starts = [position for position, _ in places[1:]]
    return any(b - a > _MATROSKA_HEADER_BYTES for a, b in zip(ends, starts, strict=False))
