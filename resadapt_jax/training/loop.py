"""The loop every recipe runs in: resume, step, log, checkpoint, report progress."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from resadapt_jax.config import differences, to_json
from resadapt_jax.errors import UserError
from resadapt_jax.files import atomic_write
from resadapt_jax.training.checkpoint import Checkpoints
from resadapt_jax.training.config import AFTER_TRAINING
from resadapt_jax.training.metrics import CompileCounter, MetricLogger
from resadapt_jax.training.progress import Progress

StateT = TypeVar("StateT")
Metrics = Mapping[str, Any]


class Batches(Protocol):
    """An iterator over batches whose place can be saved, as grain's are."""

    def __next__(self) -> Any: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


def run(
    state: StateT,
    batches: Batches,
    step: Callable[[StateT, Any], tuple[StateT, Metrics]],
    *,
    config: Any,
    output_dir: str | Path,
    num_steps: int,
    checkpoint_every: int,
    shown: tuple[str, ...],
    description: str,
) -> StateT:
    """Runs ``step`` until ``num_steps`` are done, from the newest checkpoint in ``output_dir``.

    A run interrupted at any moment and started again ends in the same state, bit for bit.

    Args:
        state: the fresh state; also the template that checkpoints must fit.
        batches: the data from its start.
        step: one update; its metrics are scalars.
        shown: metrics that the progress bar shows.

    Returns:
        The final state.

    Raises:
        UserError: ``output_dir`` holds a run of another config, or a checkpoint of another shape.
    """
    output_dir = Path(output_dir)
    with Checkpoints(output_dir / "checkpoints") as checkpoints, CompileCounter() as compiled:
        restored = checkpoints.restore(state)
        done = 0
        if restored is not None:
            _require_same_config(restored.config, config, output_dir)
            state, done = restored.state, restored.step
            batches.set_state(restored.data_state)
        atomic_write(output_dir / "config.json", to_json(config))

        def save() -> None:
            checkpoints.save(done, state, config=to_json(config), data_state=batches.get_state())

        with (
            MetricLogger(output_dir, resume_step=done if done else None) as logger,
            Progress(num_steps, initial=done, description=description) as progress,
            _interrupt_after_step() as interrupted,
        ):
            while done < num_steps and not interrupted:
                state, metrics = step(state, next(batches))
                done += 1
                record = logger.log(done, {**metrics, "compilations": compiled.count})
                if record is not None:
                    progress.update(done - 1, **{name: record[name] for name in shown})
                if done % checkpoint_every == 0:
                    save()
            last = logger.flush() or {}
            progress.update(done, **{name: last[name] for name in shown if name in last})
            save()
        if interrupted:
            raise KeyboardInterrupt
    return state


def _require_same_config(saved: str, config: Any, output_dir: Path) -> None:
    changed = differences(saved, config, ignore=AFTER_TRAINING)
    if changed:
        raise UserError(
            f"{output_dir} holds a run of another config ({'; '.join(changed)}); "
            "give --output-dir another folder, or remove that one"
        )


@contextmanager
def _interrupt_after_step() -> Iterator[list[int]]:
    """Lets the step in progress finish when asked to stop, so that its state can be saved.

    Yields a list that a first SIGINT or SIGTERM makes non-empty, saying so on stderr; a second one
    acts as usual.
    """
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in signals}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        for other in signals:
            signal.signal(other, previous[other])
        # Past the streams of Python, which may be in the middle of a write; below a progress bar.
        line = "stopping: finishing the step in progress and saving; press again to stop at once\n"
        os.write(2, (("\n" if sys.stderr.isatty() else "") + line).encode())

    for number in signals:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in signals:
            signal.signal(number, previous[number])
