"""Decode chosen frames of a video, by the index of its packets.

What no chosen frame needs is not decoded: groups of pictures without one, and frames that no other
refers to. That changes no pixel, since a decoder's state at a key frame is that of a new one. If
anything is amiss on the way, the whole clip is decoded instead, from the start and with care, so
that damage is concealed as well as it can be and its neighbours stand in for a lost frame.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, repeat

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from jaxtyping import Float

from resadapt_jax.data.container import (
    Patience,
    Source,
    VideoIndex,
    check_frame_size,
    open_video,
    read_packets,
    seconds_of,
    video_stream,
)

Keep = Callable[[av.VideoFrame], np.ndarray]

_PACKETS_TO_TRY = 64

# Where "no other frame refers to it" is what the bitstream says. HEVC's mark holds only within a
# temporal layer.
_MARKS_UNREFERENCED = {"h264", "mpeg4", "mpeg2video"}


@dataclass
class Decoded:
    """The frames that were taken, and what left the decoder whole, patched up, or never."""

    times: list[float] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
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


def decode_chosen(
    source: Source,
    index: VideoIndex,
    wanted: Float[np.ndarray, " N"],
    keep: Keep,
    patience: Patience,
) -> Decoded | None:
    """The frames at the wanted times, decoding no more than they need.

    Args:
        wanted: times of the index.
        keep: what is made of each frame.

    Returns:
        ``None`` unless every wanted frame came out whole, and without an error on the way.
    """
    needs = _what_is_needed(index, wanted)
    if needs is None:
        return None
    taken: dict[int, np.ndarray] = {}
    with open_video(source, patience) as container:
        stream = video_stream(container, source)
        # Frame threads would hand frames out late, and a jump would lose those under way.
        stream.thread_type = "NONE"
        packets = read_packets(container, stream, patience=patience, source=source)
        try:
            for frame in _needed_frames(packets, stream, needs):
                if frame.pts in needs.ticks and frame.pts not in taken:
                    if frame.is_corrupt:
                        return None
                    taken[frame.pts] = keep(frame)
        except FFmpegError:
            return None
    if len(taken) < len(needs.ticks):
        return None
    return Decoded(
        times=wanted.tolist(),
        frames=[taken[tick] for tick in needs.ticks],
        whole_times=index.times.tolist(),
        whole=index.num_packets,
    )


@dataclass
class _Needs:
    ticks: dict[int, None]  # of the wanted frames, in order of time
    decode: list[bool]  # which packets of the stream, in the file's order


def _what_is_needed(index: VideoIndex, wanted: Float[np.ndarray, " N"]) -> _Needs | None:
    """``None`` where times do not tell the frames apart."""
    stamps = [packet.pts for packet in index.packets if not packet.discard]
    if index.in_order or len(set(stamps)) < len(stamps) or index.frames_missing:
        return None
    if any(packet.corrupt for packet in index.packets) or not index.packets[0].keyframe:
        return None
    in_time = sorted(stamps)
    ticks = [in_time[at] for at in np.searchsorted(index.times, wanted - 1e-9)]
    places = {packet.pts: at for at, packet in enumerate(index.packets) if not packet.discard}
    decode = [False] * len(index.packets)
    for tick in ticks:
        # Back to a key frame that is shown no later: those after it in the file that are shown
        # before it may refer to what lies before it.
        for at in range(places[tick], -1, -1):
            if decode[at]:
                break
            decode[at] = True
            if index.packets[at].keyframe and index.packets[at].pts <= tick:
                break
    return _Needs(dict.fromkeys(ticks), decode[: max(map(places.get, ticks)) + 1])


def _needed_frames(
    packets: Iterator[av.Packet], stream: av.VideoStream, needs: _Needs
) -> Iterator[av.VideoFrame]:
    """Frames of the needed packets; the decoder starts anew after each gap."""
    decoder = stream.codec_context
    marks = decoder.name in _MARKS_UNREFERENCED
    under_way = False
    for packet, needed in zip(packets, needs.decode, strict=False):
        if not needed:
            if under_way:
                yield from stream.decode(None)
                decoder.flush_buffers()
                under_way = False
            continue
        if marks:
            decoder.skip_frame = "DEFAULT" if packet.pts in needs.ticks else "NONREF"
        under_way = True
        yield from stream.decode(packet)
    if under_way:
        yield from stream.decode(None)


def decode_all(
    source: Source,
    index: VideoIndex,
    wanted: Float[np.ndarray, " N"],
    keep: Keep,
    patience: Patience,
) -> Decoded:
    """The whole frames nearest to the wanted times, no frame twice; decodes the whole clip."""
    taken = Decoded()
    with open_video(source, patience) as container:
        stream = video_stream(container, source)
        # Slice threads (PyAV's default) switch FFmpeg's concealment of damage off, and frame
        # threads drop frames that follow damage near the end.
        stream.thread_type = "NONE"
        packets = read_packets(container, stream, patience=patience, source=source)
        frames = _timed(_frames(packets, stream, taken, patience), stream, index, taken)
        for time, frame in _nearest(frames, wanted):
            taken.times.append(time)
            taken.frames.append(keep(frame))
    return taken


def first_frame(
    container: InputContainer, stream: av.VideoStream, source: Source, patience: Patience
) -> av.VideoFrame | None:
    """The first frame that decodes, if one of the first packets gives any."""
    stream.thread_type = "NONE"
    packets = read_packets(container, stream, patience=patience, source=source)
    for packet in chain(islice(packets, _PACKETS_TO_TRY), (None,)):
        try:
            for frame in stream.decode(packet):
                check_frame_size(frame, source)
                return frame
        except FFmpegError:
            continue
    return None


def _frames(
    packets: Iterator[av.Packet], stream: av.VideoStream, taken: Decoded, patience: Patience
) -> Iterator[av.VideoFrame]:
    """Everything that leaves the decoder; a packet it refuses is counted and passed over."""
    for packet in chain(packets, (None,)):  # None empties the decoder
        try:
            frames = stream.decode(packet)
        except FFmpegError:
            taken.errors += 1
            patience.damaged()
            continue
        damaged = sum(frame.is_corrupt for frame in frames)
        if damaged:
            patience.damaged()
        taken.patched += damaged
        taken.whole += len(frames) - damaged
        yield from frames


def _timed(
    frames: Iterator[av.VideoFrame], stream: av.VideoStream, index: VideoIndex, taken: Decoded
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Whole frames with their times, unless a time is missing or runs backwards."""
    latest = -np.inf
    for time, frame in zip(chain(index.times, repeat(np.nan)), frames, strict=False):
        if not index.in_order:
            known = frame.pts is not None
            time = seconds_of(frame.pts, stream.time_base) - index.start if known else np.nan
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
