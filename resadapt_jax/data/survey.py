"""How large every row of a corpus will be, found out before training from headers alone.

Rows that cannot be used are counted with the reason, and the reason of the first few is shown.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from resadapt_jax.data.batches import pair_seconds
from resadapt_jax.data.container import VideoHeader
from resadapt_jax.data.frame_sampling import SamplingConfig, planned_frames
from resadapt_jax.data.frame_size import native_size
from resadapt_jax.data.image import image_size
from resadapt_jax.data.media import as_row_error, locate
from resadapt_jax.data.row import ROLES, Medium, Row, RowError, UnknownTask, parse_row
from resadapt_jax.data.shapes import BatchShape
from resadapt_jax.data.sources import Rows, folder_of
from resadapt_jax.data.video import read_header
from resadapt_jax.errors import UserError
from resadapt_jax.files import atomic_write
from resadapt_jax.operators.sizes import SizeLimits
from resadapt_jax.typing import Float, Int

_log = logging.getLogger(__name__)

CountTokens = Callable[[Row, Sequence[Float[np.ndarray, " K"]]], tuple[int, int]]
"""Tokens of a row's prompt and of its query, given the seconds of each medium's pairs.

Visual tokens count as one for each pair. Called by several threads at once; may raise `RowError`.
"""

Check = Callable[[str, str], str | None]
"""What is wrong with a problem type and a truth, ``None`` if nothing is; may raise `RowError`."""


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """What decides about a row beside the row itself.

    Attributes:
        max_prompt_tokens: rows whose prompt is longer are dropped; a pair counts as one token.
        max_length: rows whose prompt is longer are dropped, visual tokens at native size included;
            a file's ``len_frames_N`` is believed where N is the sampling's most frames.
    """

    sampling: SamplingConfig
    limits: SizeLimits
    max_prompt_tokens: int
    max_length: int | None = None


class RowSize(NamedTuple):
    """Room that a row takes.

    Attributes:
        num_frames: whole pairs of all its media; an image is one. One pair at least, which is
            masked in a row without media.
        height, width: the largest of its frames, legal sizes.
        prompt_tokens, query_tokens: as measured.
        native_tokens: visual tokens at native size.
    """

    num_frames: int
    height: int
    width: int
    prompt_tokens: int
    query_tokens: int
    native_tokens: int


class MediumPlan(NamedTuple):
    """What a medium will give: whole pairs, their seconds, and the size of its frames."""

    seconds: Float[np.ndarray, " K"]
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """Which rows of a corpus can be used.

    Attributes:
        positions: of the rows that can, in the source.
        row_sizes: theirs, columns as in `RowSize`.
        frame_sizes: heights and widths that their frames have.
        tasks: their problem types.
        dropped: position, kind and detail of each that cannot.
        unknown_tasks: problem types that nobody knows, with the positions of their rows; these are
            among the dropped.
        digest: of the contents of the rows that can be used.
    """

    positions: Int[np.ndarray, " N"]
    row_sizes: Int[np.ndarray, "N 6"]
    frame_sizes: tuple[tuple[int, int], ...]
    tasks: tuple[str, ...]
    dropped: tuple[tuple[int, str, str], ...]
    unknown_tasks: tuple[tuple[str, tuple[int, ...]], ...]
    digest: str

    @property
    def batch_needs(self) -> Int[np.ndarray, "N 5"]:
        """What of the sizes decides about a row's batch, columns as in `BatchShape`."""
        return self.row_sizes[:, : len(BatchShape._fields)]

    def report(self, name: str, examples: int = 3) -> str:
        """Rows kept and dropped, the latter by reason, the commonest first."""
        total = len(self.positions) + len(self.dropped)
        lines = [f"{name}: {total} rows, {len(self.positions)} kept, {len(self.dropped)} dropped"]
        kinds: dict[str, list[str]] = {}
        for position, kind, detail in self.dropped:
            kinds.setdefault(kind, []).append(f"row {position}: {detail}")
        for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1])):
            lines.append(f"  {len(found):7} {kind}")
            lines += [f"          {example}" for example in found[:examples]]
        return "\n".join(lines)


def survey(
    rows: Rows,
    root: str | os.PathLike,
    row_filter: RowFilter,
    count_tokens: CountTokens,
    check: Check | None = None,
    *,
    threads: int = 8,
    name: str = "corpus",
) -> Survey:
    """Looks at every row of a corpus; decodes no more of a video than its first frame.

    Args:
        root: folder of the media.
        check: of the answers.
        name: beside the progress bar.
    """
    survey_row = partial(_survey_row, rows, Path(root), row_filter, count_tokens, check, name)
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(survey_row, range(len(rows)))
        found = list(tqdm(found, f"reading headers of {name}", len(rows), unit=" rows"))
    kept = {at: one for at, one in enumerate(found) if isinstance(one, _Kept)}
    dropped = {at: one for at, one in enumerate(found) if isinstance(one, RowError)}
    unknown: dict[str, list[int]] = {}
    for at, error in dropped.items():
        if isinstance(error, UnknownTask):
            unknown.setdefault(error.task, []).append(at)
    contents = repr([(at, one.digest) for at, one in kept.items()])
    return Survey(
        positions=np.array(list(kept), np.int64),
        row_sizes=_table([one.size for one in kept.values()]),
        frame_sizes=tuple(sorted({size for one in kept.values() for size in one.frame_sizes})),
        tasks=tuple(one.task for one in kept.values()),
        dropped=tuple((at, one.kind, one.detail) for at, one in dropped.items()),
        unknown_tasks=tuple((task, tuple(rows)) for task, rows in unknown.items()),
        digest=hashlib.sha256(contents.encode()).hexdigest(),
    )


def cached_survey(
    folder: str | os.PathLike,
    path: str | os.PathLike,
    row_filter: RowFilter,
    settings: Any,
    make: Callable[[], Survey],
) -> Survey:
    """The survey that ``make`` makes, kept in a folder until the corpus or the rules change.

    Media that come, go or change afterwards are not noticed: then delete the folder. A survey that
    cannot be written is not kept, which is said.

    Args:
        path: the corpus.
        settings: whatever else the survey depends on, by its ``repr``.
    """
    key = [_identity(path), asdict(row_filter), repr(settings), RowSize._fields, ROLES]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = Path(folder) / f"survey-{digest[:32]}.json"
    try:
        return _from_json(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        made = make()
    try:
        atomic_write(file, json.dumps(_to_json(made)))
    except OSError as error:
        _log.warning("the survey is not kept in %s: %s", folder, error.strerror)
    return made


def filter_row(
    row: Row,
    root: Path,
    row_filter: RowFilter,
    count_tokens: CountTokens,
    check: Check | None = None,
) -> tuple[RowSize, set[tuple[int, int]]]:
    """The size of a row that can be used, and the sizes of its frames.

    Raises:
        RowError: it cannot be used.
    """
    if check is not None and (reason := check(row.problem_type, row.truth)):
        raise RowError("answer", reason)
    plans = [plan_medium(medium, root, row_filter) for medium in row.media]
    prompt, query = count_tokens(row, [plan.seconds for plan in plans])
    if prompt > row_filter.max_prompt_tokens:
        raise RowError("prompt too long", f"{prompt} tokens of {row_filter.max_prompt_tokens}")
    factor = row_filter.limits.factor
    pairs = sum(len(plan.seconds) for plan in plans)
    native = sum(len(p.seconds) * p.height * p.width // factor**2 for p in plans)
    length = row.cached_lengths.get(row_filter.sampling.max_frames, prompt - pairs + native)
    if row_filter.max_length is not None and length > row_filter.max_length:
        raise RowError("too long with its media", f"{length} tokens of {row_filter.max_length}")
    size = RowSize(
        num_frames=2 * max(pairs, 1),
        height=max((plan.height for plan in plans), default=factor),
        width=max((plan.width for plan in plans), default=factor),
        prompt_tokens=prompt,
        query_tokens=query,
        native_tokens=native,
    )
    return size, {(plan.height, plan.width) for plan in plans}


def plan_medium(medium: Medium, root: Path, row_filter: RowFilter) -> MediumPlan:
    """What a medium will give, by its header.

    Raises:
        RowError: it is not there, cannot be read, or has no legal size.
    """
    source = locate(medium, root)
    with as_row_error(medium):
        if medium.kind == "image":
            size, seconds = image_size(source), np.zeros(1)
        else:
            header = read_header(source)
            size, seconds = (
                (header.height, header.width),
                _video_seconds(header, medium, row_filter),
            )
        return MediumPlan(seconds, *native_size(*size, row_filter.limits))


def _video_seconds(
    header: VideoHeader, medium: Medium, row_filter: RowFilter
) -> Float[np.ndarray, " K"]:
    """About when the pairs will be: frames evenly from the first to the last."""
    count = planned_frames(
        header.duration,
        header.num_frames,
        row_filter.sampling,
        start=medium.start,
        end=medium.end,
        min_frames=medium.min_frames,
        max_frames=medium.max_frames,
    )
    start = medium.start or 0.0
    interval = header.duration / header.num_frames if header.num_frames else 0.0
    last = header.duration - interval
    end = last if medium.end is None else min(medium.end, last)
    times = np.linspace(start, max(start, end), count)
    return pair_seconds(np.append(times, times[-1:]) if count % 2 else times)


class _Kept(NamedTuple):
    """What is kept of a row that can be used."""

    size: RowSize
    frame_sizes: set[tuple[int, int]]
    task: str
    digest: str


def _survey_row(
    rows: Rows,
    root: Path,
    row_filter: RowFilter,
    count_tokens: CountTokens,
    check: Check | None,
    name: str,
    position: int,
) -> _Kept | RowError:
    try:
        row = parse_row(rows[position])
        size, frame_sizes = filter_row(row, root, row_filter, count_tokens, check)
    except RowError as error:
        return error
    except UserError as error:
        raise UserError(f"row {position} of {name}: {error}") from error
    except Exception as error:  # a mistake in this program: say where it showed
        error.add_note(f"at row {position} of {name}")
        raise
    return _Kept(size, frame_sizes, row.problem_type, _digest(row))


def _digest(row: Row) -> str:
    """Of all that a row says; files of media are known by their paths."""
    digest = hashlib.sha256(repr(row).encode())
    for medium in row.media:
        digest.update(medium.data or b"")
    return digest.hexdigest()


def _identity(path: str | os.PathLike) -> list[Any]:
    """Of a file its path, size and time of change; of a prepared folder its description's."""
    path = os.path.abspath(path)
    file = path if os.path.isfile(path) else folder_of(path) / "dataset_info.json"
    state = os.stat(file)
    return [path, state.st_size, state.st_mtime_ns]


def _to_json(made: Survey) -> dict[str, Any]:
    return {
        "positions": made.positions.tolist(),
        "row_sizes": made.row_sizes.tolist(),
        "frame_sizes": made.frame_sizes,
        "tasks": made.tasks,
        "dropped": made.dropped,
        "unknown_tasks": made.unknown_tasks,
        "digest": made.digest,
    }


def _table(sizes: Sequence[Sequence[int]]) -> Int[np.ndarray, "N 6"]:
    return np.array(sizes, np.int64).reshape(-1, len(RowSize._fields))


def _from_json(kept: dict[str, Any]) -> Survey:
    return Survey(
        positions=np.array(kept["positions"], np.int64),
        row_sizes=_table(kept["row_sizes"]),
        frame_sizes=tuple(tuple(size) for size in kept["frame_sizes"]),
        tasks=tuple(kept["tasks"]),
        dropped=tuple((at, kind, detail) for at, kind, detail in kept["dropped"]),
        unknown_tasks=tuple((task, tuple(rows)) for task, rows in kept["unknown_tasks"]),
        digest=kept["digest"],
    )
