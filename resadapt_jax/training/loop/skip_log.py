"""Rows that a run could not use, or not whole, and why; counted at its end.

``dropped.jsonl`` has the rows that the survey dropped before training, ``skipped.jsonl`` those that
could not be loaded, ``damaged.jsonl`` those used although frames of theirs are lost. A line names
the corpus's file, the row's position there, counted from 0, and the reason.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resadapt_jax.files import atomic_write
from resadapt_jax.training.loop.metric_log import drop_records_after, read_metrics


def rows_with(records: Mapping[str, np.ndarray], reason: str) -> list[dict[str, Any]]:
    """File, row, index and reason of the rows of a batch that have a reason of this name."""
    return [
        {
            "file": str(records["file"][at]),
            "row": int(records["row"][at]),
            "index": str(records["index"][at]),
            "reason": str(records[reason][at]),
        }
        for at in np.flatnonzero(records[reason] != "")
    ]


class SkipLog:
    """Writes a line per row and time; each process its own rows, the first one the dropped.

    Args:
        directory: of the run.
        done: steps done; what is there of later ones is removed, as they come again.
        dropped: rows of the whole run, of JSON's types, with a ``kind`` each.
    """

    def __init__(
        self, directory: str | Path, *, done: int, dropped: Sequence[Mapping[str, Any]] = ()
    ):
        process = jax.process_index()
        suffix = f"-{process}.jsonl" if process else ".jsonl"
        self.skipped = Path(directory) / f"skipped{suffix}"
        self.damaged = Path(directory) / f"damaged{suffix}"
        self._dropped, self._drops = Path(directory) / "dropped.jsonl", dropped
        for path in (self.skipped, self.damaged):
            if process == 0:
                _take_over(path)
            drop_records_after(path, done)
        if process == 0 and (dropped or self._dropped.exists()):
            atomic_write(self._dropped, "".join(json.dumps(row) + "\n" for row in dropped))

    def add(
        self, step: int, skipped: Sequence[Mapping[str, Any]], damaged: Sequence[Mapping[str, Any]]
    ) -> None:
        """Writes which rows of a step were skipped, and which used although damaged."""
        for path, rows in ((self.skipped, skipped), (self.damaged, damaged)):
            if rows:
                with open(path, "a") as file:
                    file.writelines(json.dumps({"step": step, **row}) + "\n" for row in rows)

    def summary(self) -> str:
        """How many rows that was in the whole run, by kind, a line each; empty if none."""
        lines = []
        if self._drops and jax.process_index() == 0:
            kinds = (row["kind"] for row in self._drops)
            lines.append(f"dropped {_counted(kinds)} before training ({self._dropped})")
        if rows := read_metrics(self.skipped):
            kinds = (row["reason"].partition(":")[0] for row in rows)
            lines.append(f"skipped {_counted(kinds)}{_apart(rows)} ({self.skipped})")
        if rows := read_metrics(self.damaged):
            lines.append(f"used {len(rows)} rows{_apart(rows)} although damaged ({self.damaged})")
        return "\n".join(lines)


def _take_over(own: Path) -> None:
    """Into the first process's file go those of processes that the run no longer has."""
    for path in sorted(own.parent.glob(f"{own.stem}-*.jsonl")):
        if int(path.stem.rpartition("-")[2]) >= jax.process_count():
            records = read_metrics(own) + read_metrics(path)
            atomic_write(own, "".join(json.dumps(record) + "\n" for record in records))
            path.unlink()


def _apart(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many rows of the files that is, where some came more than once."""
    different = len({(row["file"], row["row"]) for row in rows})
    return f" ({different} different)" if different < len(rows) else ""


def _counted(kinds: Iterable[str]) -> str:
    counts = Counter(kinds)
    return f"{counts.total()} rows: " + ", ".join(
        f"{count} {kind}" for kind, count in counts.most_common()
    )
