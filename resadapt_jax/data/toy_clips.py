"""Writes clips of the embedded world as files, with a table of questions, to try a corpus on.

    python -m resadapt_jax.data.toy_clips clips --count 10
    python -m resadapt_jax.data.convert clips/questions.csv clips.parquet

Every fifth question is about a picture, the frame that shows its answer.
"""

import argparse
import csv
import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from resadapt_jax.data.toy_questions import PROBLEM_TYPES
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.data.toy_world import FRAMES_PER_SECOND, ToyWorldConfig
from resadapt_jax.errors import UserError, run_cli
from resadapt_jax.files import atomic_write, require_writable
from resadapt_jax.typing import UInt8

_PICTURE_EVERY = 5
_RATE = Fraction(FRAMES_PER_SECOND)
# Strokes are one pixel wide: none may be lost.
_LOSSLESS = {"crf": "0", "preset": "veryfast"}


def write_clips(
    folder: Path, world: ToyWorldConfig, count: int, first: int = 0
) -> list[dict[str, Any]]:
    """Writes ``count`` clips from ``first`` on into a folder; returns the table of questions.

    Questions about times are left to the embedded world: its clips begin anywhere on a clock.

    Raises:
        ValueError: it asks about nothing else.
    """
    if set(world.tasks) <= {"when"}:
        raise ValueError("the world asks about times alone")
    rows, index = [], first
    with tqdm(total=count, desc="writing clips", unit=" clips") as bar:
        while len(rows) < count:
            record = ToyClips(world, 1, first=index)[0]
            index += 1
            if record["task"] == "when":
                continue
            picture = len(rows) % _PICTURE_EVERY == _PICTURE_EVERY - 1
            name = f"{record['index']:05}" + (".png" if picture else ".mp4")
            if picture:
                shown = 2 * int(np.argmax(record["evidence"]))
                write_picture(folder / name, record["frames"][shown])
            else:
                write_video(folder / name, record["frames"])
            rows.append(
                {
                    "media": name,
                    "question": record["question"],
                    "answer": record["answer"],
                    "problem_type": PROBLEM_TYPES[record["task"]],
                    "index": record["index"],
                    "data_source": "toy_world",
                }
            )
            bar.update()
    return rows


def write_picture(path: Path, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
    """Writes a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    atomic_write(path, file.getvalue())


def write_video(path: Path, frames: UInt8[np.ndarray, "F height width 3"]) -> None:
    """Writes H.264 of full colour resolution, at the world's frames per second.

    Nothing is lost but by rounding to the 220 levels of a video's brightness.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_RATE, options=_LOSSLESS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    atomic_write(path, file.getvalue())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m resadapt_jax.data.toy_clips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where clips and questions.csv go")
    parser.add_argument("--count", type=int, default=10, help="of clips (default: 10)")
    parser.add_argument("--seed", type=int, default=7, help="of the world (default: 7)")
    args = parser.parse_args(argv)
    if args.count < 1:
        raise UserError(f"--count must be at least 1, got {args.count}")
    if args.seed < 0:
        raise UserError(f"--seed must not be negative, got {args.seed}")
    return args


def run(args: argparse.Namespace) -> None:
    """The command."""
    require_writable(args.folder)
    rows = write_clips(args.folder, ToyWorldConfig(seed=args.seed), args.count)
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(args.folder / "questions.csv", table.getvalue())
    print(f"wrote {len(rows)} clips and {args.folder / 'questions.csv'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_cli(lambda: run(_parse(argv)))


if __name__ == "__main__":
    raise SystemExit(main())
