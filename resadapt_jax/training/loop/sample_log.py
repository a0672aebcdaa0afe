"""Tables of what the policy does: ``samples.jsonl`` and a page with pictures per table."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax

from resadapt_jax.files import atomic_write
from resadapt_jax.report.samples import Sample, page, to_record
from resadapt_jax.training.loop.metric_log import drop_records_after


class SampleLog:
    """Writes samples by step: a line each in ``samples.jsonl``, a page a step in ``samples/``.

    Args:
        directory: of the run.
        done: steps done; what is there of later ones is removed, as they come again.
    """

    def __init__(self, directory: str | Path, *, done: int):
        self.path = Path(directory) / "samples.jsonl"
        self.pages = Path(directory) / "samples"
        if jax.process_index() != 0:
            return
        drop_records_after(self.path, done)
        for path in self.pages.glob("*.html"):
            if path.stem.isdigit() and int(path.stem) > done:
                path.unlink()

    def add(self, step: int, samples: Sequence[Sample]) -> None:
        """Writes the samples of a step; only the first process does."""
        if jax.process_index() != 0 or not samples:
            return
        with open(self.path, "a") as file:
            for sample in samples:
                file.write(json.dumps({"step": step} | to_record(sample)) + "\n")
        atomic_write(self.pages / f"{step}.html", page(samples, title=f"step {step}"))
