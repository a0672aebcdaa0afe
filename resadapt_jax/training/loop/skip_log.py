"""Rows that a run had to leave out, and why: ``skipped.jsonl``, counted at the end."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax

from resadapt_jax.training.loop.metrics import drop_records_after, read_metrics


class SkipLog:
    """Writes a line per row that was left out; each process its own rows.

    Args:
        directory: of the run.
        done: steps done; what is there of later ones is removed, as they come again.
    """

    def __init__(self, directory: str | Path, *, done: int):
        process = jax.process_index()
        self.path = Path(directory) / (f"skipped-{process}.jsonl" if process else "skipped.jsonl")
        drop_records_after(self.path, done)

    def add(self, step: int, reasons: Sequence[str]) -> None:
        """Writes why rows of a step were left out."""
        if not reasons:
            return
        with open(self.path, "a") as file:
            for reason in reasons:
                file.write(json.dumps({"step": step, "reason": reason}) + "\n")

    def summary(self) -> str:
        """How many rows were left out in the whole run, by kind of reason; empty if none was."""
        if not self.path.exists() or not (records := read_metrics(self.path)):
            return ""
        kinds = Counter(record["reason"].partition(":")[0] for record in records)
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return f"left out {len(records)} rows: {counted} ({self.path})"
