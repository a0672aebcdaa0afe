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
    """One row: where it stands ("line 3"), what was asked, written and expected."""

    place: str
    task: str | None
    output: str
    truth: str


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

    Numbers, lists and objects become their JSON text, an output of null an empty one.

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
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number}: not JSON: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches())
            records = (record for batch in batches for record in batch)
            for number, record in enumerate(records, 1):
                yield f"row {number}", record
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is no Parquet file: {error}") from error


def _row(
    path: Path, place: str, record: Any, fields: FieldNames, default_task: str | None
) -> AnswerRow:
    if not isinstance(record, Mapping):
        raise UserError(f"{path}, {place}: not a JSON object but {type(record).__name__}")
    found = {name: _find(record, getattr(fields, name)) for name in ("output", "truth", "task")}
    if found["task"] is _ABSENT and default_task is not None:
        found["task"] = default_task
    for name, value in found.items():
        if value is _ABSENT or (name == "truth" and value is None):
            tried = ", ".join(getattr(fields, name))
            raise UserError(f"{path}, {place}: no {name}; looked for {tried} (--{name}-field)")
    task = found["task"]
    if task is not None and not isinstance(task, str):
        raise UserError(f"{path}, {place}: a task type is text, got {task!r}")
    output = "" if found["output"] is None else _text(found["output"])
    return AnswerRow(place=place, task=task, output=output, truth=_text(found["truth"]))


def _find(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of the fields that is there."""
    for name in names:
        value: Any = record
        for key in name.split("."):
            value = value.get(key, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is not _ABSENT:
            return value
    return _ABSENT


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
