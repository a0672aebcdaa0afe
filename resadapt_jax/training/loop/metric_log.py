"""What a run logs: scalars per step in ``metrics.jsonl`` and on dashboards, and compilations."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import monitoring

from resadapt_jax.errors import UserError
from resadapt_jax.files import atomic_write
from resadapt_jax.training.loop.dashboards import TensorBoard, WeightsAndBiases
from resadapt_jax.training.loop.throughput import rates
from resadapt_jax.typing import Array, Float

_COMPILED = "/jax/core/compile/backend_compile_duration"


class MetricLogger:
    """Writes scalars by step, fetching them from the device one step late.

    ``log`` returns without waiting for the device: the metrics of step i are fetched when those of
    step i + 1 are logged, while the device already works on the latter.

    Every process fetches, the first one writes.

    Args:
      directory: gets ``metrics.jsonl`` (one JSON object per step) and TensorBoard event files.
      done: updates done by the restored checkpoint; what was logged after it is dropped, as those
        steps come again. 0 starts an empty log.
      wandb_project: Weights & Biases project that gets the scalars too, if not empty.
      config: the run's config by ``config.to_json``, for Weights & Biases.

    Use it as a context manager: leaving it writes what is pending.
    """

    def __init__(
        self, directory: str | Path, *, done: int = 0, wandb_project: str = "", config: str = "{}"
    ):
        self.path = Path(directory) / "metrics.jsonl"
        self._file, self._boards = None, []
        self._pending: tuple[int, dict[str, Array]] | None = None
        if jax.process_index() != 0:
            return
        drop_records_after(self.path, done)
        self._file = open(self.path, "a", buffering=1)  # a whole line at a time
        self._boards.append(TensorBoard(directory, done=done))
        if wandb_project:
            board = WeightsAndBiases(directory, project=wandb_project, config=config)
            self._boards.append(board)

    def __enter__(self) -> "MetricLogger":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def log(
        self, step: int, metrics: Mapping[str, Float[Array, ""] | float]
    ) -> dict[str, float] | None:
        """Queues the scalars of ``step``; writes and returns the record queued before, if any.

        Raises ``ValueError`` naming a metric that is no scalar.
        """
        for name, value in metrics.items():
            if np.shape(value) != ():
                raise ValueError(f"metric {name} has shape {np.shape(value)}, not a scalar's")
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        record = self.flush()
        self._pending = step, dict(metrics)
        return record

    def flush(self) -> dict[str, float] | None:
        """Waits for the queued record, writes and returns it; None when there is none."""
        if self._pending is None:
            return None
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        values |= rates(values)
        if self._file is not None:
            self._file.write(json.dumps({"step": step} | _finite(values), allow_nan=False) + "\n")
        for board in self._boards:
            board.add(step, {name: x for name, x in values.items() if math.isfinite(x)})
        return {"step": step} | values

    def close(self) -> None:
        """Writes what is pending and closes the file and the dashboards."""
        self.flush()
        if self._file is not None:
            self._file.close()
        for board in self._boards:
            board.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``, oldest first; a value that was not finite is None.

    Of a ``samples.jsonl`` too: any file of one JSON object with a ``step`` per line. A last line
    that a killed process left incomplete is not a record.

    Raises:
      UserError: another line is not a record, naming it.
    """
    path = Path(path)
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [
        _parse_record(line, f"{path} line {number}")
        for number, line in enumerate(lines, 1)
        if line.endswith(b"\n")
    ]


def drop_records_after(path: str | Path, done: int) -> None:
    """Keeps of such a file, if there is one, what is of the first ``done`` steps."""
    if not Path(path).exists():
        return
    kept = [record for record in read_metrics(path) if record["step"] <= done] if done else []
    atomic_write(path, "".join(json.dumps(record) + "\n" for record in kept))


class CompileCounter:
    """Counts the programs that XLA compiles while it is open, by jax's own monitoring events.

    Every distinct jitted function and argument shape counts once, as does each primitive run
    eagerly for the first time; a program read from the persistent cache counts too. A training
    loop whose count still rises after warm-up recompiles something.
    """

    def __init__(self):
        self.names: list[str] = []

    def __enter__(self) -> "CompileCounter":
        monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *exception) -> None:
        monitoring.unregister_event_duration_listener(self._listen)

    @property
    def count(self) -> int:
        """Programs compiled so far; ``names`` says which, in order."""
        return len(self.names)

    def _listen(self, event: str, duration: float, **details) -> None:
        if event == _COMPILED:
            self.names.append(details.get("fun_name", "(unnamed)"))


def _parse_record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:  # not JSON, or not even text
        raise UserError(f"{where} is damaged, remove the line: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise UserError(f"{where} is damaged, remove the line: not a record of a step")
    return record


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN or infinity."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
