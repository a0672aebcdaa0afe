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
