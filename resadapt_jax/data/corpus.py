"""A corpus of files as batches: ``open_corpus(config, ...)``.

    rows -> survey -> shapes -> schedule -> load -> encode -> batches

The survey looks at every row before training; the schedule says which rows make which batch, so a
place in it is a number, and the same for every host, thread or process that reads.
"""

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import grain
import numpy as np

from resadapt_jax.data.batches import BatchIterator, HostShare, ReadAhead, Share
from resadapt_jax.data.frame_sampling import SamplingConfig
from resadapt_jax.data.frames_cache import FramesCache
from resadapt_jax.data.load import LoadedRow, Loading, empty_row, load_row
from resadapt_jax.data.row import Row, RowError, parse_row
from resadapt_jax.data.schedule import Schedule, plan_batches
from resadapt_jax.data.shapes import BatchShape, assign, choose_shapes, padding
from resadapt_jax.data.sources import Rows, folder_of, open_rows
from resadapt_jax.data.survey import Check, CountTokens, RowFilter, Survey, cached_survey, survey
from resadapt_jax.errors import UserError
from resadapt_jax.files import require_writable
from resadapt_jax.operators.sizes import SizeLimits
from resadapt_jax.typing import Int

Encode = Callable[[Row, LoadedRow, BatchShape], dict[str, Any]]
"""A row as the arrays of a batch's row, each of a size that the shape says.

May raise `RowError`: it is then called again with an empty ``LoadedRow`` that says why,
and must not raise.
"""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Files of questions about images and videos, and how they are read."""

    files: tuple[str, ...]
    """Corpora: .parquet, .jsonl, .array_record, or a folder that tensorflow-datasets prepared."""
    weights: tuple[float, ...] = ()
    """Share of each file in the rows drawn; by default its number of rows."""
    media_root: str = ""
    """Folder that paths in the files start from and may not leave; by default each file's own."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How many frames of a video are taken."""
    max_shapes: int = 4
    """Sizes of a batch, at most; each costs a compilation, few cost padding."""
    max_prompt_tokens: int = 1024
    """Rows with longer prompts are dropped; a pair of frames counts as one token."""
    max_length: int | None = None
    """Rows whose prompt with all visual tokens at native size is longer are dropped, by a file's
    len_frames_N where it has them for this many frames; by default none is."""
    frames_cache: str = ""
    """Folder to keep decoded videos in, uncompressed; by default they are not kept."""
    survey_cache: str = ""
    """Folder to keep what was found out about the rows in, so that a second start is instant."""
    workers: int = 0
    """Processes that read and decode; with 0 the threads of this one do."""
    threads: int = 2
    """Threads of each process that reads and decodes."""
    ahead: int = 1
    """Batches whose rows are read ahead; at most two more wait whole."""
    seconds_per_video: float = 120.0
    """Seconds of computing: a video that takes more is skipped. Short ones get less: six seconds,
    one for each megabyte of the file and one for each hundred frames."""

    def __post_init__(self):
        if isinstance(self.files, str) or not self.files:
            raise UserError(f"files must name at least one corpus, got {self.files!r}")
        if self.weights and len(self.weights) != len(self.files):
            raise UserError(f"{len(self.files)} files need as many weights, got {self.weights}")
        if not all(weight > 0 and math.isfinite(weight) for weight in self.weights):
            raise UserError(f"weights must be positive, got {self.weights}")
        least = {"max_shapes": 1, "max_prompt_tokens": 1, "workers": 0, "threads": 1, "ahead": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"{name} must be at least {value}, got {getattr(self, name)}")
        if self.max_length is not None and self.max_length < 1:
            raise UserError(f"max_length must be at least 1, got {self.max_length}")
        if not self.seconds_per_video > 0:
            raise UserError(f"seconds_per_video must be positive, got {self.seconds_per_video}")


class Corpus(NamedTuple):
    """A corpus that is ready to be trained on.

    Attributes:
        batches: of this process.
        shapes: that batches have.
        native_sizes: heights and widths of frames; a row's ``native_index`` counts them.
        schedule: which rows make which batch.
        report: what was kept, dropped and why, lines to print.
        dropped: every row that cannot be used: file, row, kind and reason.
        fingerprint: of the rows of all batches, 12 digits; must be the same on every host.
    """

    batches: BatchIterator
    shapes: tuple[BatchShape, ...]
    native_sizes: tuple[tuple[int, int], ...]
    schedule: Schedule
    report: str
    dropped: tuple[Mapping[str, Any], ...]
    fingerprint: str


def open_corpus(
    config: CorpusConfig,
    limits: SizeLimits,
    count_tokens: CountTokens,
    check: Check | None,
    *,
    batch_size: int,
    num_batches: int,
    seed: int,
    share: HostShare,
    encode: Encode,
    settings: Any = None,
) -> Corpus:
    """Surveys the files and plans the batches of a run.

    Args:
        limits: legal sizes of frames.
        count_tokens, check: see ``survey``.
        batch_size: rows of a batch, on all hosts together.
        share: which rows of each batch this process reads.
        encode: what a row becomes; has to be picklable if ``config.workers``.
        settings: whatever ``count_tokens`` and ``check`` depend on, with a ``repr`` that tells: a
            kept survey holds for these only.

    Raises:
        UserError: a file that cannot be read, or not one row of a file that can be used.
    """
    for folder in filter(None, (config.frames_cache, config.survey_cache)):
        require_writable(folder)
    sources = [open_rows(file) for file in config.files]
    roots = tuple(_media_root(config, file) for file in config.files)
    survey_file = _SurveyFile(config, limits, count_tokens, check, settings)
    surveys = [survey_file(*each) for each in zip(config.files, sources, roots, strict=True)]
    needs = np.concatenate([found.batch_needs for found in surveys])
    shapes = choose_shapes(needs, config.max_shapes, batch_size)
    schedule = plan_batches(
        [assign(found.batch_needs, shapes) for found in surveys],
        config.weights or [len(found.positions) for found in surveys],
        batch_size=batch_size,
        num_batches=num_batches,
        seed=seed,
    )
    # A corpus of texts alone has no frames, but its batches have room for a pair.
    smallest = ((limits.factor, limits.factor),)
    native_sizes = (
        tuple(sorted({size for found in surveys for size in found.frame_sizes})) or smallest
    )
    items = _Items(config.files, sources, [found.positions for found in surveys], schedule)
    loader = _RowLoader(config.files, roots, shapes, native_sizes, encode, _loading(config, limits))
    rows = grain.MapDataset.source(Share(items, batch_size, share)).map(loader)
    read_ahead = ReadAhead(workers=config.workers, threads=config.threads, ahead=config.ahead)
    fingerprint = _fingerprint(surveys, shapes, native_sizes, schedule)
    identity = {
        "rows_used": [len(found.positions) for found in surveys],
        "fingerprint": fingerprint,
    }
    return Corpus(
        batches=BatchIterator(rows, share.rows(batch_size), read_ahead, identity),
        shapes=shapes,
        native_sizes=native_sizes,
        schedule=schedule,
        report=_report(config, surveys, needs, shapes, schedule),
        dropped=tuple(
            {"file": file, "row": row, "kind": kind, "reason": reason}
            for file, found in zip(config.files, surveys, strict=True)
            for row, kind, reason in found.dropped
        ),
        fingerprint=fingerprint,
    )


def _loading(config: CorpusConfig, limits: SizeLimits) -> Loading:
    return Loading(
        sampling=config.sampling,
        limits=limits,
        cache=FramesCache(config.frames_cache) if config.frames_cache else None,
        time_limit=config.seconds_per_video,
    )


def _media_root(config: CorpusConfig, file: str) -> Path:
    if config.media_root and not os.path.isdir(config.media_root):
        raise UserError(f"media_root is no folder: {config.media_root}")
    return Path(config.media_root or folder_of(file))


class _SurveyFile(NamedTuple):
    """How every file is surveyed."""

    config: CorpusConfig
    limits: SizeLimits
    count_tokens: CountTokens
    check: Check | None
    settings: Any

    def __call__(self, file: str, rows: Rows, root: Path) -> Survey:
        """The survey of a file, a kept one if there is one.

        Raises:
            UserError: not one row can be used, or nobody knows the problem type of some.
        """
        config = self.config
        row_filter = RowFilter(
            sampling=config.sampling,
            limits=self.limits,
            max_prompt_tokens=config.max_prompt_tokens,
            max_length=config.max_length,
        )
        threads = 2 * config.threads * max(config.workers, 1)

        def make() -> Survey:
            return survey(
                rows,
                root,
                row_filter,
                self.count_tokens,
                self.check,
                threads=threads,
                name=file,
            )

        if config.survey_cache:
            settings = str(root), self.settings
            found = cached_survey(config.survey_cache, file, row_filter, settings, make)
        else:
            found = make()
        if found.unknown_tasks:
            raise UserError(_unknown_tasks(file, found))
        if not len(found.positions):
            raise UserError(f"no row can be used of {found.report(file)}")
        return found


def _unknown_tasks(file: str, found: Survey) -> str:
    """Every problem type that nobody knows, how often it is there, and first where."""
    listed = "; ".join(
        f"{task!r} of {len(rows)} rows, the first is row {rows[0]}"
        for task, rows in found.unknown_tasks
    )
    first = found.unknown_tasks[0][1][0]
    hint = next(detail for row, _, detail in found.dropped if row == first)
    return f"{file} has unknown problem types: {listed} ({hint})"


class _Item(NamedTuple):
    """A row of a batch before anything of it is loaded."""

    row: Row
    corpus: int
    position: int
    shape: int


class _Items(Sequence):
    """The rows of all batches, one after the other."""

    def __init__(
        self,
        files: Sequence[str],
        sources: Sequence[Rows],
        positions: Sequence[Any],
        schedule: Schedule,
    ):
        self._files, self._sources = files, sources
        self._positions, self._schedule = positions, schedule

    def __len__(self) -> int:
        return self._schedule.row.size

    def __getitem__(self, position: SupportsIndex) -> _Item:
        schedule = self._schedule
        batch, at = divmod(range(len(self))[position], schedule.row.shape[1])
        corpus = int(schedule.corpus[batch, at])
        row = int(self._positions[corpus][schedule.row[batch, at]])
        try:
            parsed = parse_row(self._sources[corpus][row])
        except RowError as error:  # the survey has read it
            file = self._files[corpus]
            raise UserError(f"row {row} of {file} can no longer be read: {error}") from error
        return _Item(parsed, corpus, row, int(schedule.shape[batch]))


class _RowLoader(NamedTuple):
    """From an item to the arrays of its row."""

    files: tuple[str, ...]
    roots: tuple[Path, ...]
    shapes: tuple[BatchShape, ...]
    native_sizes: tuple[tuple[int, int], ...]
    encode: Encode
    loading: Loading

    def __call__(self, item: _Item) -> dict[str, Any]:
        shape, row = self.shapes[item.shape], item.row
        loaded = load_row(row, shape, self.roots[item.corpus], self.loading)
        try:
            arrays = self._arrays(row, loaded, shape)
        except RowError as error:
            arrays = self._arrays(row, empty_row(shape, str(error)), shape)
        place = {"file": self.files[item.corpus], "row": item.position, "index": row.index}
        return arrays | place

    def _arrays(self, row: Row, loaded: LoadedRow, shape: BatchShape) -> dict[str, Any]:
        index = self._native_index(loaded)
        return {"native_index": index} | self.encode(row, loaded, shape)

    def _native_index(self, loaded: LoadedRow) -> Int[np.ndarray, " K"]:
        """Which of the sizes each pair has, 0 for an absent one."""
        sizes = zip(loaded.source_heights.tolist(), loaded.source_widths.tolist(), strict=True)
        index = np.zeros(len(loaded.medium), np.int32)
        for pair, size in enumerate(sizes):
            if loaded.medium[pair] < 0:
                continue
            if size not in self.native_sizes:
                raise RowError("another size than the header says", f"{size[0]} x {size[1]}")
            index[pair] = self.native_sizes.index(size)
        return index


def _report(
    config: CorpusConfig,
    surveys: Sequence[Survey],
    needs: np.ndarray,
    shapes: Sequence[BatchShape],
    schedule: Schedule,
) -> str:
    lines = [found.report(file) for file, found in zip(config.files, surveys, strict=True)]
    for number, (file, found) in enumerate(zip(config.files, surveys, strict=True)):
        drawn = schedule.row[schedule.corpus == number]
        unused = len(found.positions) - len(np.unique(drawn))
        lines.append(
            f"the run takes {drawn.size} rows of {file}, {schedule.epochs[number]:.2f} epochs; "
            f"{unused} of its {len(found.positions)} rows are in no batch"
        )
    lines.append(f"batches have {len(shapes)} shapes, {padding(needs, shapes):.0%} padding:")
    numbers = assign(needs, shapes)
    for number, shape in enumerate(shapes):
        rows = int(np.sum(numbers == number))
        batches = int(np.sum(schedule.shape == number))
        lines.append(
            f"  {shape.num_frames} frames of {shape.height} x {shape.width}, "
            f"{shape.prompt_tokens} + {shape.query_tokens} tokens: {rows} rows, {batches} batches"
        )
    return "\n".join(lines)


def _fingerprint(
    surveys: Sequence[Survey],
    shapes: Sequence[BatchShape],
    native_sizes: Sequence[tuple[int, int]],
    schedule: Schedule,
) -> str:
    """Of what the rows say, which of them make which batch, and how large their arrays are."""
    contents = [found.digest for found in surveys]
    digest = hashlib.sha256(repr((contents, shapes, native_sizes)).encode())
    for array in (schedule.corpus, schedule.row, schedule.shape):
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()[:12]
