"""A table of questions about the clips and pictures of a folder (`convert` names its columns)."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resadapt_jax.data.image import IMAGE_SUFFIXES
from resadapt_jax.data.row import RowError
from resadapt_jax.errors import UserError

_CSV_COLUMNS = (
    "question", "answer", "media", "problem_type", "data_source", "ability", "system", "index",
    "start", "end", "min_frames", "max_frames",
)  # fmt: skip


class CsvRows(Sequence):
    """The table's rows, as records of the release's schema.

    Raises:
        UserError: no such file, no text, a column missing, unknown or there twice, or no row.
    """

    def __init__(self, path: str):
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                self._lines = [(reader.line_num, row) for row in reader]
                columns = reader.fieldnames or ()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"not a csv file in UTF-8: {path} ({error})") from error
        _check_header(path, columns)
        if not self._lines:
            raise UserError(f"{path} has no row")

    def __len__(self) -> int:
        return len(self._lines)

    def line(self, position: int) -> int:
        """Number of a row's last line in the file."""
        return self._lines[position][0]

    def __getitem__(self, position: int) -> Mapping[str, Any]:
        line, row = self._lines[position]
        if None in row or None in row.values():
            raise RowError("unreadable row", f"line {line} has not as many fields as the first")
        return _csv_record(row)


def _check_header(path: str, columns: Sequence[str]) -> None:
    for column, count in Counter(columns).items():
        if column not in _CSV_COLUMNS:
            known = ", ".join(_CSV_COLUMNS)
            raise UserError(f"{path} has an unknown column {column!r}; known are {known}")
        if count > 1:
            raise UserError(f"{path} has {count} columns {column!r}")
    for column in ("question", "answer"):
        if column not in columns:
            has = ", ".join(columns) or "none"
            raise UserError(f"{path} has no column {column!r}; it has {has}")


def _csv_record(row: Mapping[str, str]) -> Mapping[str, Any]:
    media: dict[str, list[Mapping[str, Any]]] = {"image": [], "video": []}
    markers = ""
    for path in filter(None, (part.strip() for part in row.get("media", "").split("|"))):
        kind = "image" if Path(path).suffix.lower() in IMAGE_SUFFIXES else "video"
        limits = {
            name: _csv_number(name, row[name], kind)
            for name, kind in (
                ("start", float), ("end", float), ("min_frames", int), ("max_frames", int)
            )
            if row.get(name)
        }  # fmt: skip
        media[kind].append({kind: path} | (limits if kind == "video" else {}))
        markers += f"<{kind}>"
    for name in ("start", "end"):
        if row.get(name) and not media["video"]:
            raise RowError("wrong value", f"{name} is {row[name]!r}, but the row has no video")
    question = row["question"]
    if "<image>" not in question and "<video>" not in question:
        question = markers + question
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return {
        "data_source": row.get("data_source"),
        "prompt": [*system, {"role": "user", "content": question}],
        "images": media["image"],
        "videos": media["video"],
        "ability": row.get("ability"),
        "reward_model": {"ground_truth": row["answer"]},
        "extra_info": {"problem_type": row.get("problem_type"), "index": row.get("index")},
    }


def _csv_number(name: str, value: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise RowError("wrong type", f"{name} is {value!r}, no number") from error
