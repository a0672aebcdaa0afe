"""Files of answers: JSON lines or Parquet, an answer with its ground truth and task type a row."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resadapt_jax.errors import UserError

OUTPUT_FIELDS = ("output", "response", "prediction", "completion", "answer")
TRUTH_FIELDS = ("ground_truth", "reward_model.ground_truth", "truth", "target", "solution")
TASK_FIELDS = ("problem_type", "extra_info.problem_type", "task_type", "task")

_ABSENT = object()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerRow:
    """One row: where it stands ("row 2 (line 3)"), what was asked, written and expected.

    ``fault``: why it cannot be graded, as far as reading it tells.
    """

    place: str
    task: str | None
    output: str
    truth: str
    fault: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldNames:
    """Which fields hold what; the first that a row has. A dot goes into an object."""

    output: tuple[str, ...] = OUTPUT_FIELDS
    truth: tuple[str, ...] = TRUTH_FIELDS
    task: tuple[str, ...] = TASK_FIELDS


def read_answers(
    path: Path, fields: FieldNames = FieldNames(), default_task: str | None = None
) -> list[AnswerRow]:
    """The rows of a ``.parquet`` file, or of any other as JSON lines; empty lines are skipped.

    Numbers, lists and objects become their JSON text, null an empty one; a truth of null is the
    row's fault.

    Args:
      default_task: task type of rows that have no field for it; if None they are an error.

    Raises:
      UserError: a file that cannot be read, or has no rows; a line that is no JSON object; a field
        that is missing.
    """
    try:
        records = _parquet(path) if path.suffix == ".parquet" else _json_lines(path)
        rows = [_row(path, *record, fields, default_task) for record in records]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with open(path, "rb") as file:
        filled = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        for row, (number, line) in enumerate(filled):
            place = f"row {row} (line {number})"
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, {place}: not JSON: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches())
            records = (record for batch in batches for record in batch)
            for number, record in enumerate(records):
                yield f"row {number}", record
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from error


def _row(
    path: Path, place: str, record: Any, fields: FieldNames, default_task: str | None
) -> AnswerRow:
    if not isinstance(record, Mapping):
        raise UserError(f"{path}, {place}: not a JSON object but {type(record).__name__}")
    tried = {name: getattr(fields, name) for name in ("output", "truth", "task")}
    found = {name: _find(record, names) for name, names in tried.items()}
    if found["task"][1] is _ABSENT and default_task is not None:
        found["task"] = "", default_task
    for name, (_, value) in found.items():
        if value is _ABSENT:
            looked = ", ".join(tried[name])
            raise UserError(f"{path}, {place}: no {name}; looked for {looked} (--{name}-field)")
    task = found["task"][1]
    if task is not None and not isinstance(task, str):
        raise UserError(f"{path}, {place}: a task type is text, got {task!r}")
    field, truth = found["truth"]
    return AnswerRow(
        place=place,
        task=task,
        output=_text(found["output"][1]),
        truth=_text(truth),
        fault=f"{field} is null" if truth is None else None,
    )


def _find(record: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """The first of the fields that is there, and its value."""
    for name in names:
        value: Any = record
        for key in name.split("."):
            value = value.get(key, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is not _ABSENT:
            return name, value
    return "", _ABSENT


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
