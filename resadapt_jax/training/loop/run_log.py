"""What a run tells of its steps: metrics, samples, progress; and whether a step was sound."""

import contextlib
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from resadapt_jax.config import to_json
from resadapt_jax.errors import UserError
from resadapt_jax.training.loop.metric_log import CompileCounter, MetricLogger
from resadapt_jax.training.loop.progress import Progress
from resadapt_jax.training.loop.protocols import StepResult
from resadapt_jax.training.loop.resume import save_batch
from resadapt_jax.training.loop.sample_log import SampleLog
from resadapt_jax.training.loop.skip_log import SkipLog


class RunLog:
    """Logs each step one late, and stops a run at a step that was not finite.

    Args:
        output_dir: where all of it goes.
        config: the recipe's; its field ``run`` says what is logged.
        done: steps done before; what was logged of later ones is dropped, as they come again.
        num_steps: of the whole run.
        finite: metrics that every step has and that must be finite.
        shown: metrics that the progress bar shows.
        description: what is being done, for the bar.
        dropped: rows that are not trained on (`skip_log.SkipLog`).

    Use it as a context manager: leaving it writes what is pending.
    """

    def __init__(
        self,
        output_dir: Path,
        config: Any,
        *,
        done: int,
        num_steps: int,
        finite: Sequence[str],
        shown: Sequence[str],
        description: str,
        dropped: Sequence[Mapping[str, Any]] = (),
    ):
        self._output_dir, self._run = output_dir, config.run
        self._finite, self._shown = finite, shown
        with contextlib.ExitStack() as opened:
            project = config.run.wandb_project
            logger = MetricLogger(
                output_dir, done=done, wandb_project=project, config=to_json(config)
            )
            self._metrics = opened.enter_context(logger)
            file = None if jax.process_index() == 0 else io.StringIO()  # seen by nobody
            progress = Progress(num_steps, initial=done, description=description, file=file)
            self._progress = opened.enter_context(progress)
            self._compiled = opened.enter_context(CompileCounter())
            self._opened = opened.pop_all()
        self._samples = SampleLog(output_dir, done=done)
        self._skips = SkipLog(output_dir, done=done, dropped=dropped)
        self._batches: dict[int, Any] = {}  # of the steps whose metrics are not known yet
        self._scores: list[float] = []
        self._turned = time.monotonic()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception) -> None:
        self._opened.__exit__(*exception)
        if summary := self._skips.summary():
            print(summary)

    def add(self, step: int, batch: Any, result: StepResult) -> None:
        """Queues the metrics of ``step`` and settles the step before, whose metrics are there.

        Raises:
            UserError: see ``settle``.
        """
        seconds, self._turned = time.monotonic() - self._turned, time.monotonic()
        counted = {"seconds": seconds, "compilations": self._compiled.count}
        self._batches[step] = batch
        self._settle(self._metrics.log(step, {**result.metrics, **counted}))
        self._skips.add(step, result.skipped, result.damaged)
        if self._run.samples_every and step % self._run.samples_every == 0:
            self._samples.add(step, result.samples())

    def settle(self) -> None:
        """Waits for the metrics of the last step added, so that its state may be saved.

        Raises:
            UserError: the loss or a gradient was not finite; the batch has been written.
        """
        self._settle(self._metrics.flush())

    def score(self) -> float | None:
        """Mean of ``best_metric`` over the steps settled since the last call; None if there are
        none."""
        scores, self._scores = self._scores, []
        return sum(scores) / len(scores) if scores else None

    def _settle(self, record: dict[str, float] | None) -> None:
        if record is None:
            return
        step = int(record["step"])
        batch = self._batches.pop(step)
        for name in self._finite:
            if not math.isfinite(record[name]):
                raise self._not_finite(step, name, record[name], batch)
        self._score(step, record)
        known = {name: record.get(name, math.nan) for name in self._shown}
        shown = {name: value for name, value in known.items() if math.isfinite(value)}
        self._progress.update(step, **shown)

    def _score(self, step: int, record: dict[str, float]) -> None:
        """A later step may lack the metric, as a batch may lack a task."""
        name = self._run.best_metric
        if self._run.keep_best and step == 1 and name not in record:
            names = ", ".join(sorted(record.keys() - {"step"}))
            raise UserError(f"run.best_metric is {name}, but a step logs {names}")
        if math.isfinite(record.get(name, math.nan)):
            self._scores.append(record[name])

    def _not_finite(self, step: int, name: str, value: float, batch: Any) -> UserError:
        path = save_batch(self._output_dir, step, batch)
        return UserError(
            f"step {step}: {name} is {value}; its batch is in {path}. The same command comes to it "
            "again from the newest checkpoint; resadapt_jax.training.recipe.replay repeats it alone"
        )
