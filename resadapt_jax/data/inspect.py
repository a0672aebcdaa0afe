"""Tells what is in a corpus: rows per task, modality and length, what cannot be read, first rows.

    python -m resadapt_jax.data.inspect questions.parquet --frames 128 --decode 100

Only headers are read, of every row, unless --decode says how many rows to decode as training
would. The numbers go to the terminal and, with the first rows and their pictures, to one HTML file
that needs no other. Visual tokens are counted at native size; a word of text has about 1.3 tokens.
"""

import argparse
import base64
import io
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from PIL import Image

from resadapt_jax.data.frame_sampling import SamplingConfig
from resadapt_jax.data.load import LoadedRow, Loading, load_row
from resadapt_jax.data.row import Row, parse_row
from resadapt_jax.data.shapes import BatchShape
from resadapt_jax.data.sources import Rows, folder_of, open_rows
from resadapt_jax.data.survey import Check, RowFilter, RowSize, Survey, survey
from resadapt_jax.errors import CliParser, UserError, run_cli
from resadapt_jax.files import atomic_write, require_writable
from resadapt_jax.operators.sizes import SizeLimits
from resadapt_jax.rewards import RewardConfig, check_truth
from resadapt_jax.typing import Float, Int

_MODALITIES = ("text", "image", "video", "image and video")
_TOKENS_PER_WORD = 1.3
_BINS, _NO_LIMIT = 10, 2**31
_THUMBNAILS, _THUMBNAIL = 6, (288, 96)  # of a row, and within how many pixels


class Bin(NamedTuple):
    """Values from ``low`` to ``high``, both included."""

    low: int
    high: int
    count: int


class Sample(NamedTuple):
    """A row to show: the thumbnails are JPEG files in base64."""

    position: int
    row: Row
    note: str
    skipped: str
    thumbnails: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """What is told of a corpus.

    Attributes:
        tasks: of the rows that can be used, problem type and number of rows by modality.
        skipped: of the rows that were decoded, position and reason of those that could not be.
        decoded, seconds: how many were, and how long it took.
        samples: the first rows that can be used.
    """

    name: str
    row_filter: RowFilter
    survey: Survey
    tasks: tuple[tuple[str, Counter[str]], ...]
    decoded: int
    seconds: float
    skipped: tuple[tuple[int, str], ...]
    samples: tuple[Sample, ...]

    @property
    def histograms(self) -> tuple[tuple[str, tuple[Bin, ...]], ...]:
        """Lengths of the rows that can be used."""
        needs = RowSize(*self.survey.row_sizes.T)
        with_media = needs.native_tokens > 0
        of = {
            "Frames, with images as two": needs.num_frames[with_media],
            "Visual tokens": needs.native_tokens[with_media],
            "Text tokens, about": needs.query_tokens,
        }
        return tuple((title, histogram(values)) for title, values in of.items() if len(values))


def histogram(values: Int[np.ndarray, " N"], bins: int = _BINS) -> tuple[Bin, ...]:
    """Counts of whole numbers in bins of equal width from the least to the greatest."""
    low, high = int(values.min()), int(values.max())
    width = max(1, -(-(high - low + 1) // bins))
    counts = np.bincount((values - low) // width)
    return tuple(
        Bin(low + at * width, low + (at + 1) * width - 1, int(count))
        for at, count in enumerate(counts)
    )


def inspect_rows(
    rows: Rows,
    root: Path,
    row_filter: RowFilter,
    check: Check | None = None,
    *,
    name: str,
    num_samples: int = 12,
    num_decoded: int = 0,
) -> Inspection:
    """Looks at every row's headers, decodes as many as asked for, spread over the corpus.

    Args:
        root: folder of the media.
        check: of the answers.
    """
    found = survey(rows, root, row_filter, estimate_tokens, check, name=name)
    tasks: dict[str, Counter[str]] = {}
    for position, task in zip(found.positions.tolist(), found.tasks, strict=True):
        tasks.setdefault(task, Counter())[modality(parse_row(rows[position]))] += 1
    chosen = np.linspace(0, len(found.positions) - 1, min(num_decoded, len(found.positions)))
    start = time.perf_counter()
    skipped = [  # of a row's frames nothing is kept
        (int(found.positions[at]), _load(rows, root, row_filter, found, at)[1].skipped)
        for at in np.round(chosen).astype(int)
    ]
    return Inspection(
        name=name,
        row_filter=row_filter,
        survey=found,
        tasks=tuple(sorted(tasks.items(), key=lambda item: -item[1].total())),
        decoded=len(skipped),
        seconds=time.perf_counter() - start,
        skipped=tuple((position, reason) for position, reason in skipped if reason),
        samples=tuple(
            _sample(rows, root, row_filter, found, at)
            for at in range(min(num_samples, len(found.positions)))
        ),
    )


def estimate_tokens(row: Row, seconds: Sequence[Float[np.ndarray, " K"]]) -> tuple[int, int]:
    """Of the prompt with its times, and of its words alone."""
    words = sum(len(message.content.split()) for message in row.messages)
    text = round(_TOKENS_PER_WORD * words)
    return text + sum(map(len, seconds)), text


def modality(row: Row) -> str:
    """Which kinds of media a row has."""
    return " and ".join(sorted({medium.kind for medium in row.media})) or "text"


def _load(
    rows: Rows, root: Path, row_filter: RowFilter, found: Survey, at: int
) -> tuple[Row, LoadedRow]:
    row = parse_row(rows[int(found.positions[at])])
    shape = BatchShape(*found.batch_needs[at].tolist())
    return row, load_row(
        row, shape, root, Loading(sampling=row_filter.sampling, limits=row_filter.limits)
    )


def _sample(rows: Rows, root: Path, row_filter: RowFilter, found: Survey, at: int) -> Sample:
    row, loaded = _load(rows, root, row_filter, found, at)
    needs = RowSize(*found.row_sizes[at].tolist())
    shown = np.flatnonzero(loaded.frame_mask)
    some = np.unique(np.linspace(0, len(shown) - 1, _THUMBNAILS).round().astype(int))
    media = ", ".join(medium.path or f"{medium.kind} in the row" for medium in row.media)
    return Sample(
        position=int(found.positions[at]),
        row=row,
        note=f"{media or 'text only'} · {needs.native_tokens} visual tokens",
        skipped=loaded.skipped,
        thumbnails=tuple(_thumbnail(loaded, int(shown[one])) for one in some if len(shown)),
    )


def _thumbnail(loaded: LoadedRow, frame: int) -> str:
    height, width = loaded.source_heights[frame // 2], loaded.source_widths[frame // 2]
    image = Image.fromarray(loaded.frames[frame, :height, :width])
    image.thumbnail(_THUMBNAIL)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()


def describe(found: Inspection) -> str:
    """The numbers as text."""
    lines = [found.survey.report(found.name), "", _describe_filter(found.row_filter), ""]
    for task, counts in found.tasks:
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in _MODALITIES if counts[kind])
        lines.append(f"{counts.total():8} {task or '(no task)'}: {kinds}")
    for title, bins in found.histograms:
        lines += ["", title]
        most = max(one.count for one in bins)
        lines += [
            f"{one.low:8} - {one.high:<8} {one.count:8} {'#' * round(40 * one.count / most)}"
            for one in bins
        ]
    if found.decoded:
        rate = found.decoded / found.seconds
        lines += ["", f"decoded {found.decoded} rows, {rate:.1f} a second on one thread"]
        lines += [f"{len(found.skipped)} would be skipped"]
        lines += [f"  row {position}: {reason}" for position, reason in found.skipped]
    return "\n".join(lines)


def _describe_filter(row_filter: RowFilter) -> str:
    sampling, limits = row_filter.sampling, row_filter.limits
    return (
        f"At {sampling.fps:g} frames a second, {sampling.min_frames} to {sampling.max_frames} of a "
        f"video, tokens of {limits.factor} x {limits.factor} pixels."
    )


def page(found: Inspection) -> str:
    """The same as one HTML page, with the first rows; all that comes from the corpus is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    kinds: dict[str, list[str]] = {}
    for position, kind, detail in found.survey.dropped:
        kinds.setdefault(kind, []).append(f"row {position}: {detail}")
    kept = len(found.survey.positions)
    return environment.get_template("inspect.html.jinja").render(
        name=found.name,
        kept=kept,
        total=kept + len(found.survey.dropped),
        rules=_describe_filter(found.row_filter),
        modalities=_MODALITIES,
        tasks=found.tasks,
        histograms=found.histograms,
        dropped=sorted(kinds.items(), key=lambda item: -len(item[1])),
        decoded=found.decoded,
        skipped=found.skipped,
        samples=found.samples,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = CliParser(
        prog="python -m resadapt_jax.data.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    folder = "a folder that tensorflow-datasets prepared, with :SPLIT behind it"
    towers = "14 for Qwen2.5-VL, 16 for Qwen3-VL (default: 14)"
    add = parser.add_argument
    add("file", help=f"a .parquet, .jsonl or .array_record file, or {folder}")
    add("--media-root", metavar="DIR", help="folder of the media (default: the file's)")
    add("--frames", type=int, default=128, help="of a video, at most (default: 128)")
    add("--fps", type=float, default=2.0, help="frames a second (default: 2)")
    add("--patch-size", type=int, default=14, help=f"of the backbone: {towers}")
    add("--rows", type=int, default=12, help="to show (default: 12)")
    add("--decode", type=int, default=0, metavar="N", help="rows to decode (default: 0)")
    add("--default-task", default="", help="grader of problem types that are not known")
    add("--out", type=Path, metavar="HTML", help="default: runs/inspect/FILE.html")
    args = parser.parse_args(argv)
    out = args.out or Path("runs", "inspect", f"{Path(args.file).name}.html")
    for name in ("rows", "decode"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} must not be negative, got {getattr(args, name)}")
    if args.patch_size < 1:
        raise UserError(f"--patch-size must be positive, got {args.patch_size}")
    require_writable(out.parent)
    row_filter = RowFilter(
        sampling=SamplingConfig(
            fps=args.fps, min_frames=min(4, max(args.frames, 1)), max_frames=args.frames
        ),
        limits=SizeLimits.of_tower(args.patch_size, 2),
        max_prompt_tokens=_NO_LIMIT,
    )
    root = Path(args.media_root or folder_of(args.file))
    found = inspect_rows(
        open_rows(args.file),
        root,
        row_filter,
        partial(check_truth, config=RewardConfig(default_task=args.default_task)),
        name=args.file,
        num_samples=args.rows,
        num_decoded=args.decode,
    )
    print(describe(found))
    atomic_write(out, page(found))
    print(f"\nwrote {out}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
