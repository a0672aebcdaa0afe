"""Writes questions about media as parquet of the release's schema, checked row by row.

    python -m resadapt_jax.data.convert questions.jsonl questions.parquet
    python -m resadapt_jax.data.convert questions.csv questions.parquet --media-root clips/

A jsonl file (or a parquet file, an ArrayRecord file, a prepared folder) has the rows themselves. A
csv file is a table of questions about the clips and pictures of a folder, with the columns

    question, answer             needed
    media                        a path in the folder; several with | between them; may be empty
    problem_type, data_source, ability, system, index, start, end, min_frames, max_frames

Before a question without a marker come those of all its media. Every row is read as training would
read it and the header of every medium is looked at; with bad rows no parquet is written, unless
--drop-bad drops them. OUTPUT.dropped.jsonl lists them all with their reasons. Rows are counted from
0, as in training; of a text file the line is told too.
"""

import argparse
import json
import os
import sys
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from resadapt_jax.data.csv_rows import CsvRows
from resadapt_jax.data.frame_sampling import SamplingConfig
from resadapt_jax.data.row import COLUMNS, Medium, Row, RowError, parse_row, records_of, text_of
from resadapt_jax.data.sources import JsonRows, Rows, folder_of, open_rows
from resadapt_jax.data.survey import Check, RowFilter, plan_medium
from resadapt_jax.errors import CliParser, UserError, run_cli
from resadapt_jax.files import atomic_write, require_writable
from resadapt_jax.operators.sizes import SizeLimits
from resadapt_jax.rewards import RewardConfig, check_truth

# What a row group's rows hold at most, so that random access to it stays cheap.
_GROUP_ROWS, _GROUP_BYTES = 512, 2**25
_LISTED = 20

_NESTED = {
    "prompt": ("role", "content"),
    "images": ("image", "path", "bytes"),
    "videos": (
        "video", "path", "bytes", "min_frames", "max_frames", "start", "end", "video_start",
        "video_end",
    ),
}  # fmt: skip
_EXTRAS = ("problem_type", "index", "answer", "question", "doc_id")


def to_record(row: Row, extra_info: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A row as a record of the schema: `parse_row` of it gives the row back.

    Args:
        extra_info: what to keep besides of ``answer``, ``question`` and ``doc_id``.

    Raises:
        RowError: one of these is no text.
    """
    known = {name: value for name, value in (extra_info or {}).items() if name in _EXTRAS}
    extras = {
        name: None if value is None else text_of(value, name) for name, value in known.items()
    }
    return {
        "data_source": row.data_source,
        "prompt": [{"role": m.role, "content": m.content} for m in row.messages],
        "images": [_medium_record(m) for m in row.media if m.kind == "image"],
        "videos": [_medium_record(m) for m in row.media if m.kind == "video"],
        "ability": row.ability,
        "reward_model": {"style": "rule", "ground_truth": row.truth},
        "extra_info": extras | {"problem_type": row.problem_type, "index": row.index},
        **{f"len_frames_{count}": length for count, length in row.cached_lengths.items()},
    }


def _medium_record(medium: Medium) -> dict[str, Any]:
    record: dict[str, Any] = {medium.kind: medium.path or None, "bytes": medium.data}
    if medium.kind == "video":
        for name in ("min_frames", "max_frames", "start", "end"):
            record[name] = getattr(medium, name)
    return record


def _schema(lengths: Iterable[int]) -> pa.Schema:
    text, number = pa.string(), pa.int64()
    video = {"video": text, "bytes": pa.binary(), "min_frames": number, "max_frames": number}
    seconds = {"start": pa.float64(), "end": pa.float64()}
    columns = {
        "data_source": text,
        "prompt": pa.list_(_struct({"role": text, "content": text})),
        "images": pa.list_(_struct({"image": text, "bytes": pa.binary()})),
        "videos": pa.list_(_struct(video | seconds)),
        "ability": text,
        "reward_model": _struct({"style": text, "ground_truth": text}),
        "extra_info": _struct(dict.fromkeys(_EXTRAS, text)),
        **{f"len_frames_{count}": number for count in sorted(lengths)},
    }
    return pa.schema(list(columns.items()))


def _struct(fields: Mapping[str, pa.DataType]) -> pa.DataType:
    return pa.struct(list(fields.items()))


class _Good(NamedTuple):
    """Of a row that can be used: the N of its ``len_frames_N``, and values without a column."""

    lengths: tuple[int, ...]
    left: tuple[str, ...]


def check_rows(rows: Rows, root: Path, check: Check, threads: int = 8) -> list[_Good | RowError]:
    """What is to be known of every row, read as training would, or what is wrong with it.

    Args:
        root: folder of the media.
        check: of the answers.
    """
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(partial(_check_row, rows, root, check), range(len(rows)))
        return list(tqdm(found, "checking", len(rows), unit=" rows"))


def _check_row(rows: Rows, root: Path, check: Check, position: int) -> _Good | RowError:
    row_filter = RowFilter(sampling=SamplingConfig(), limits=SizeLimits(), max_prompt_tokens=1)
    try:
        record = rows[position]
        row = parse_row(record)
        if reason := check(row.problem_type, row.truth):
            raise RowError("answer", reason)
        to_record(row, _extra_info(record))
        for medium in row.media:
            plan_medium(medium, root, row_filter)
        return _Good(tuple(row.cached_lengths), tuple(dict.fromkeys(_without_room(record))))
    except RowError as error:
        return error


def _extra_info(record: Mapping[str, Any]) -> Mapping[str, Any]:
    extra = record.get("extra_info")
    return extra if isinstance(extra, Mapping) else {}


def _without_room(record: Mapping[str, Any]) -> Iterator[str]:
    """Names of values that the schema has no column for."""
    for name, value in record.items():
        if value is not None and name not in COLUMNS and not name.startswith("len_frames_"):
            yield name
    parts = [
        ("extra_info", _EXTRAS, _extra_info(record)),
        ("reward_model", ("style", "ground_truth"), record["reward_model"]),
    ]
    for column, known in _NESTED.items():
        entries = records_of(record.get(column), column)
        parts += [(column, known, one) for one in entries if isinstance(one, Mapping)]
    for column, known, part in parts:
        for name, value in part.items():
            if value is not None and name not in known:
                yield f"{column}.{name}"


class Converted(NamedTuple):
    """What was not written: rows by reason, and values of other rows by name."""

    rows: Counter[str]
    values: Counter[str]


def convert(
    rows: Rows, root: Path, out: Path, check: Check, *, drop_bad: bool = False
) -> Converted:
    """Checks all rows, then writes those that can be used.

    The others are listed in the file `dropped_file`.

    Returns:
        What was dropped.

    Raises:
        UserError: a row cannot be used, unless ``drop_bad``; or none can.
    """
    found = check_rows(rows, root, check)
    bad = [(at, error) for at, error in enumerate(found) if isinstance(error, RowError)]
    _list_dropped(dropped_file(out), rows, bad)
    if bad and not drop_bad:
        lines = [f"  {_place(rows, at)}: {error}" for at, error in bad[:_LISTED]]
        left = len(bad) - _LISTED
        lines += [f"  and {left} more, all in {dropped_file(out)}"] if left > 0 else []
        listed = "\n".join(lines)
        raise UserError(
            f"{len(bad)} of {len(rows)} rows cannot be used; --drop-bad drops them\n{listed}"
        )
    good = {at: one for at, one in enumerate(found) if isinstance(one, _Good)}
    if not good:
        raise UserError(f"no row can be used; {dropped_file(out)} has the reasons")
    counts = {count for one in good.values() for count in one.lengths}
    records = (_normalised(rows[at]) for at in good)
    with _written_aside(out) as temporary, pq.ParquetWriter(temporary, _schema(counts)) as writer:
        for group in _groups(records):
            writer.write_table(pa.Table.from_pylist(group, writer.schema))
    return Converted(
        rows=Counter(error.kind for _, error in bad),
        values=Counter(name for one in good.values() for name in one.left),
    )


def dropped_file(out: Path) -> Path:
    """Where the rows are listed that were not written to ``out``."""
    return out.with_name(f"{out.name}.dropped.jsonl")


def _list_dropped(path: Path, rows: Rows, bad: Sequence[tuple[int, RowError]]) -> None:
    """Writes an object a row, as training does; a list of an earlier run does not stay."""
    path.unlink(missing_ok=True)
    if bad:
        listed = [
            {"row": at, "line": _line(rows, at), "kind": error.kind, "reason": error.detail}
            for at, error in bad
        ]
        atomic_write(path, "".join(json.dumps(one) + "\n" for one in listed))


def _normalised(record: Mapping[str, Any]) -> dict[str, Any]:
    return to_record(parse_row(record), _extra_info(record))


def _groups(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Records in groups that are small in number and in bytes."""
    group, size = [], 0
    for record in records:
        group.append(record)
        size += sum(len(m["bytes"] or b"") for m in record["images"] + record["videos"])
        if len(group) == _GROUP_ROWS or size > _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


@contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    """A neighbouring file that takes the place of ``path`` once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _line(rows: Rows, position: int) -> int | None:
    return rows.line(position) if isinstance(rows, JsonRows | CsvRows) else None


def _place(rows: Rows, position: int) -> str:
    line = _line(rows, position)
    return f"row {position}" if line is None else f"row {position} (line {line})"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = CliParser(
        prog="python -m resadapt_jax.data.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("input", help="a .csv, .jsonl, .parquet or .array_record file")
    parser.add_argument("output", type=Path, help="the parquet file to write")
    parser.add_argument(
        "--media-root",
        metavar="DIR",
        help="folder that paths of media start from (default: the input's)",
    )
    parser.add_argument(
        "--default-task", default="", help="grader of problem types that are not known"
    )
    parser.add_argument("--drop-bad", action="store_true", help="drop rows that cannot be used")
    args = parser.parse_args(argv)
    if args.output.suffix != ".parquet":
        raise UserError(f"the output must end in .parquet, got {args.output}")
    require_writable(args.output.parent)
    rows = CsvRows(args.input) if Path(args.input).suffix == ".csv" else open_rows(args.input)
    root = Path(args.media_root or folder_of(args.input))
    if not root.is_dir():
        raise UserError(f"--media-root is no folder: {root}")
    check = partial(check_truth, config=RewardConfig(default_task=args.default_task))
    dropped = convert(rows, root, args.output, check, drop_bad=args.drop_bad)
    for kind, count in dropped.rows.most_common():
        print(f"dropped {count} rows: {kind}")
    if dropped.rows:
        print(f"{dropped_file(args.output)} names them")
    for name, count in dropped.values.most_common():
        print(f"dropped {name} of {count} rows: the schema has no column for it")
    print(f"wrote {len(rows) - dropped.rows.total()} rows to {args.output}")
    if root.resolve() != args.output.parent.resolve():
        print(f"its media lie in {root}: train with --data.media-root {root}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
