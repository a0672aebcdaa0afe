"""Small video files for tests, synthesised with PyAV, and the damage done to them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MILLISECOND = Fraction(1, 1000)


def flat_frames(count: int, height: int = 56, width: int = 84, step: int = 6) -> np.ndarray:
    """Frame i is everywhere the grey level step·i, so a pixel tells which frame it is from."""
    levels = (np.arange(count) * step).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3))


def textured_frames(count: int, height: int = 56, width: int = 84) -> np.ndarray:
    """Noise that moves sideways by three pixels a frame: packets large enough to damage."""
    base = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return np.stack([np.roll(base, 3 * i, axis=1) for i in range(count)])


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    milliseconds: list[int] | None = None,
    codec: str = "ffv1",
    rotation: int | None = None,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write frames at the given times (default: every 100 ms). ffv1 in .mkv keeps every pixel."""
    milliseconds = milliseconds or [100 * i for i in range(len(frames))]
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=10, options=codec_options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = MILLISECOND
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for pixels, time in zip(frames, milliseconds, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time, MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_intra_mp4(path: Path, frames: np.ndarray) -> Path:
    """H.264 in which every frame stands alone, so that one damaged packet costs one frame."""
    options = {"g": "1", "bf": "0", "preset": "ultrafast"}
    return write_video(path, frames, codec="libx264", codec_options=options)


def write_audio(path: Path) -> Path:
    """A tenth of a second of silence, no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def packet_places(path: Path) -> list[tuple[int, int]]:
    """Offset and size in bytes of each video packet, in file order."""
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.video[0])
        return sorted((packet.pos, packet.size) for packet in packets if packet.size)


def overwrite(path: Path, first: int, last: int) -> None:
    """Zero the bytes [first, last) of a file."""
    data = bytearray(path.read_bytes())
    data[first:last] = bytes(last - first)
    path.write_bytes(data)


def overwrite_packets(path: Path, first: int, last: int) -> None:
    """Zero the payload of the packets first to last - 1."""
    for offset, size in packet_places(path)[first:last]:
        overwrite(path, offset, offset + size)


def turn_by_header(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a b c d of the display matrix straight into the only track header of an mp4."""
    data = bytearray(path.read_bytes())
    # After its type a version 0 tkhd has 40 bytes before the matrix: a b u c d v x y w.
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (int(value * 65536).to_bytes(4, "big", signed=True) for value in matrix)
    data[start : start + 8] = a + b
    data[start + 12 : start + 20] = c + d
    path.write_bytes(data)


def block_frames(count: int, height: int = 112, width: int = 140) -> np.ndarray:
    """Coloured blocks that move sideways by two pixels a frame: each frame resembles the last."""
    colours = np.random.default_rng(0).integers(60, 200, (height // 14, width // 14, 3))
    base = np.kron(colours, np.ones((14, 14, 1), int)).astype(np.uint8)
    return np.stack([np.roll(base, 2 * i, axis=1) for i in range(count)])


def _cut(data: bytearray, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(1, len(data))]


def _flip(data: bytearray, rng: np.random.Generator) -> bytes:
    for at in rng.integers(0, len(data), rng.integers(1, 65)):
        data[at] ^= 1 << rng.integers(0, 8)
    return data


def _flip_header(data: bytearray, rng: np.random.Generator) -> bytes:
    """Flips bits where a container describes its streams: at the start, and in an mp4's boxes."""
    start = max(data.find(b"moov"), 0)
    for at in start + rng.integers(0, min(1500, len(data) - start), rng.integers(1, 17)):
        data[at] ^= 1 << rng.integers(0, 8)
    return data


def _zero(data: bytearray, rng: np.random.Generator) -> bytes:
    at, length = rng.integers(0, len(data)), rng.integers(1, len(data) // 4)
    data[at : at + length] = bytes(len(data[at : at + length]))
    return data


def _shift(data: bytearray, rng: np.random.Generator) -> bytes:
    """Bytes put in or left out: whatever follows is not where it should be."""
    at, length = rng.integers(0, len(data)), int(rng.integers(1, 200))
    if rng.integers(2):
        return data[:at] + rng.bytes(length) + data[at:]
    return data[:at] + data[at + length :]


def _empty(data: bytearray, rng: np.random.Generator) -> bytes:
    return b""


# Fields of headers: the bytes before them, their distance from these, and their length.
_DIMENSIONS = (
    (b"avc1", 28, 2), (b"avc1", 30, 2), (b"mp4v", 28, 2), (b"mp4v", 30, 2),
    (b"tkhd", 80, 4), (b"tkhd", 84, 4), (b"\xb0\x82", 2, 2), (b"\xba\x82", 2, 2),
    (b"strf", 12, 4), (b"strf", 16, 4), (b"GIF89a", 6, 2), (b"GIF89a", 8, 2),
    (b"avih", 40, 4), (b"\x00\x00\x01\x20", 4, 4), (b"\x9d\x01\x2a", 3, 4),
)  # fmt: skip
_COUNTS = (
    (b"mvhd", 20, 4), (b"mdhd", 20, 4), (b"tkhd", 24, 4), (b"elst", 12, 4), (b"stts", 12, 4),
    (b"stts", 16, 4), (b"stsz", 12, 4), (b"stsc", 8, 4), (b"ctts", 12, 4), (b"stco", 8, 4),
    (b"avih", 20, 4), (b"avih", 4, 4), (b"strh", 28, 4), (b"strh", 36, 4), (b"\x44\x89\x88", 3, 8),
    (b"\x2a\xd7\xb1\x83", 4, 3),
)  # fmt: skip


def _absurd(fields):
    def mutate(data: bytearray, rng: np.random.Generator) -> bytes:
        there = [(mark, offset, length) for mark, offset, length in fields if mark in data]
        for at in rng.choice(len(there), min(2, len(there)), replace=False) if there else ():
            mark, offset, length = there[at]
            start = data.index(mark) + offset
            most = (b"\x7f" + b"\xff" * 7, b"\xff" * 8, b"\x00" * 8, b"\x3f\xf0" * 4)
            data[start : start + length] = most[rng.integers(len(most))][:length]
        return data

    return mutate


_MUTATIONS = {
    "cut": (_cut, 40),
    "flip": (_flip, 45),
    "header": (_flip_header, 30),
    "zero": (_zero, 15),
    "shift": (_shift, 15),
    "empty": (_empty, 5),
    "dimensions": (_absurd(_DIMENSIONS), 20),
    "counts": (_absurd(_COUNTS), 20),
    "named": (lambda data, rng: data, 10),
}


def mutated_videos(folder: Path, seed: int = 0) -> list[Path]:
    """200 files that were videos of several kinds: cut, flipped, misnamed, with absurd headers."""
    frames = block_frames(30)
    faststart = {"movflags": "faststart"}
    sound = [
        write_video(folder / "a.mp4", frames, codec="libx264"),
        write_video(folder / "b.mp4", frames, codec="libx264", container_options=faststart),
        write_video(folder / "c.mp4", frames, codec="mpeg4", container_options=faststart),
        write_video(folder / "d.mkv", frames, codec="libx264"),
        write_video(folder / "e.mkv", frames),
        write_video(folder / "f.webm", frames, codec="libvpx"),
        write_video(folder / "g.avi", frames, codec="mpeg4"),
        write_video(folder / "h.ts", frames, codec="libx264"),
        write_video(folder / "i.h264", frames, codec="libx264"),
    ]
    rng = np.random.default_rng(seed)
    written = []
    for kind, (mutate, count) in _MUTATIONS.items():
        for number in range(count):
            source = sound[number % len(sound)]
            suffix = source.suffix
            if kind == "named":
                suffix = (".mp4", ".avi", ".jpg", ".txt", "")[number % 5]
            path = folder / f"{kind}-{number}-{source.stem}{suffix}"
            path.write_bytes(mutate(bytearray(source.read_bytes()), rng))
            written.append(path)
    for path in sound:
        path.unlink()
    return written
