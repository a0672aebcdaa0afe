"""Corpora as sequences of records: parquet, jsonl, ArrayRecord, tensorflow-datasets.

Records are read when they are asked for, so memory does not grow with the corpus; a source goes to
another process as its path and is opened there anew.
"""

import json
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python import array_record_module

from resadapt_jax.data.row import COLUMNS, REQUIRED_COLUMNS, RowError
from resadapt_jax.errors import UserError

Rows = Sequence[Mapping[str, Any]]

_CACHED_BYTES = 2**27
_RECORDS_TO_TRY = 100


def open_rows(path: str | os.PathLike | Rows) -> Rows:
    """The records of a corpus, by the suffix of its file.

    ``.parquet``; ``.jsonl``; ``.array_record`` or ``.arrayrecord`` whose records are JSON; a folder
    that tensorflow-datasets has prepared, with ``:SPLIT`` behind it if it is not ``train``. What is
    not a path, as a ``tfds.data_source``, is taken as it is.

    Raises:
        UserError: no such file, a suffix that is not known, not what the suffix says, a column
            missing, or no row.
    """
    if not isinstance(path, str | os.PathLike):
        rows = path
    else:
        rows = _open_file(str(path))
    if not len(rows):
        raise UserError(f"{path} has no row")
    return rows


def folder_of(path: str | os.PathLike) -> Path:
    """The folder a corpus lies in; a prepared folder is its own."""
    folder, _ = _prepared(str(path))
    return Path(folder or os.path.dirname(os.path.abspath(path)))


def _prepared(name: str) -> tuple[str, str]:
    """The folder and the split of a data set that tensorflow-datasets has prepared, else empty."""
    path, _, split = name.rpartition(":")
    if os.path.isdir(name):
        return name, "train"
    return (path, split) if os.path.isdir(path) else ("", "")


def _open_file(name: str) -> Rows:
    folder, split = _prepared(name)
    if folder:
        return StoredRows(folder, split)
    kinds = {
        ".parquet": ParquetRows,
        ".jsonl": JsonRows,
        ".array_record": ArrayRecordRows,
        ".arrayrecord": ArrayRecordRows,
    }
    kind = kinds.get(Path(name).suffix)
    if kind is None:
        known = ", ".join(kinds)
        raise UserError(f"cannot read {name}: neither a prepared folder nor one of {known}")
    if not Path(name).is_file():
        raise UserError(f"no such file: {name}")
    return kind(name)


def _check_columns(path: str, columns: Sequence[str]) -> None:
    missing = [column for column in REQUIRED_COLUMNS if column not in columns]
    if missing:
        has = ", ".join(columns) or "none"
        raise UserError(f"{path} has no column {missing[0]!r}; it has {has}")


class ParquetRows(Sequence):
    """The columns of the schema, whole row groups at a time; the latest stay in memory.

    Rows in random order read a row group each where the groups do not all fit in 128 MB: such a
    file should have small ones, as ``resadapt_jax.data.convert`` writes them.
    """

    def __init__(self, path: str):
        self._path = path
        self._open()

    def _open(self) -> None:
        try:
            self._file = pq.ParquetFile(self._path)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"not a parquet file: {self._path} ({_line(error)})") from error
        names = self._file.schema_arrow.names
        _check_columns(self._path, names)
        self._columns = [n for n in names if n in COLUMNS or n.startswith("len_frames_")]
        groups = [self._file.metadata.row_group(i) for i in range(self._file.num_row_groups)]
        self._ends = np.cumsum([group.num_rows for group in groups])
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> str:
        return self._path

    def __setstate__(self, path: str) -> None:
        self.__init__(path)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, position: SupportsIndex) -> Mapping[str, Any]:
        position = range(len(self))[position]
        group = int(np.searchsorted(self._ends, position, side="right"))
        table = self._group(group)
        at = position - (self._ends[group] - table.num_rows)
        try:
            return table.slice(int(at), 1).to_pylist()[0]
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise RowError("unreadable row", f"row {position}: {_line(error)}") from error

    def _group(self, group: int) -> pa.Table:
        with self._lock:
            if group not in self._groups:
                self._groups[group] = self._read_group(group)
                self._forget()
            self._groups.move_to_end(group)
            return self._groups[group]

    def _read_group(self, group: int) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=self._columns)
        except (pa.ArrowException, OSError) as error:
            detail = f"row group {group} of {self._path}: {_line(error)}"
            raise RowError("unreadable row", detail) from error

    def _forget(self) -> None:
        while len(self._groups) > 1:
            if sum(table.nbytes for table in self._groups.values()) <= _CACHED_BYTES:
                return
            self._groups.popitem(last=False)


class JsonRows(Sequence):
    """A JSON object a line; blank lines are no rows. Memory: 24 bytes a row."""

    def __init__(self, path: str):
        self._path = path
        self._places = _line_places(path)
        self._file: int | None = None
        if len(self._places):
            _check_columns(path, _columns_of(path, self))

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_places": self._places, "_file": None}

    def __len__(self) -> int:
        return len(self._places)

    def line(self, position: int) -> int:
        """Number of a row's line in the file."""
        return int(self._places[position][0])

    def __getitem__(self, position: SupportsIndex) -> Mapping[str, Any]:
        number, start, end = self._places[range(len(self))[position]].tolist()
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDONLY)
            line = os.pread(self._file, end - start, start)
        except OSError as error:
            raise RowError("unreadable row", f"line {number}: {error.strerror}") from error
        return _record(line, f"line {number}")


def _line_places(path: str) -> np.ndarray:
    """Number, start and end of every line that is not blank, int64 [rows, 3]."""
    places, start = array("q"), 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    places.extend((number, start, start + len(line)))
                start += len(line)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return np.frombuffer(places, np.int64).reshape(-1, 3)


class ArrayRecordRows(Sequence):
    """An ArrayRecord file whose records are JSON objects."""

    def __init__(self, path: str):
        self._path = path
        try:
            # Made for random access: nothing is read ahead.
            options = "readahead_buffer_size:0,max_parallelism:0"
            self._reader = array_record_module.ArrayRecordReader(path, options)
            self._length = self._reader.num_records()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"not an ArrayRecord file: {path} ({_line(error)})") from error
        self._lock = threading.Lock()
        if self._length:
            _check_columns(path, _columns_of(path, self))

    def __reduce__(self) -> tuple:
        return ArrayRecordRows, (self._path,)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: SupportsIndex) -> Mapping[str, Any]:
        position = range(len(self))[position]
        with self._lock:
            try:
                (record,) = self._reader.read([position])
            except Exception as error:  # on a damaged chunk the reader raises anything
                detail = f"record {position} of {self._path}: {_line(error)}"
                raise RowError("unreadable row", detail) from error
        return _record(record, f"record {position}")


class StoredRows(Sequence):
    """A split of a folder that tensorflow-datasets has prepared; TensorFlow is not needed."""

    def __init__(self, folder: str, split: str = "train"):
        import tensorflow_datasets as tfds  # takes a second, and most corpora need none of it

        self._folder, self._split = folder, split
        try:
            builder = tfds.builder_from_directory(folder)
            self._source = builder.as_data_source(split=split)
        except (ValueError, OSError, NotImplementedError, KeyError) as error:
            raise UserError(
                f"not a prepared data set with a split {split!r}: {folder} ({_line(error)})"
            ) from error
        _check_columns(folder, list(builder.info.features))

    def __reduce__(self) -> tuple:
        return StoredRows, (self._folder, self._split)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, position: SupportsIndex) -> Mapping[str, Any]:
        position = range(len(self))[position]
        try:
            return self._source[position]
        except Exception as error:  # on a damaged chunk the reader raises anything
            detail = f"row {position} of {self._folder}: {_line(error)}"
            raise RowError("unreadable row", detail) from error


def _columns_of(path: str, rows: Rows) -> list[str]:
    """What the first records have, those that can be read; a single one may be a bad row."""
    columns: dict[str, None] = {}
    errors = []
    tried = min(len(rows), _RECORDS_TO_TRY)
    for position in range(tried):
        try:
            columns |= dict.fromkeys(rows[position])
        except RowError as error:
            errors.append(error)
    if len(errors) == tried:
        raise UserError(f"none of the first {tried} rows of {path} can be read: {errors[0]}")
    return list(columns)


def _record(data: bytes, place: str) -> Mapping[str, Any]:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RowError("unreadable row", f"{place} is not JSON: {_line(error)}") from error
    if not isinstance(record, dict):
        raise RowError("unreadable row", f"{place} is not a JSON object")
    return record


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
