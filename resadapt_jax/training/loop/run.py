"""The loop every recipe runs in: resume, step, log, checkpoint, report progress."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from resadapt_jax.config import to_json
from resadapt_jax.errors import Terminated, UserError
from resadapt_jax.files import atomic_write
from resadapt_jax.training.loop.checkpoint import Checkpoints
from resadapt_jax.training.loop.interrupt import StopRequest
from resadapt_jax.training.loop.protocols import Batches, Step
from resadapt_jax.training.loop.resume import resume
from resadapt_jax.training.loop.run_config import RunConfig
from resadapt_jax.training.loop.run_log import RunLog


def run(
    state: Any,
    batches: Batches,
    step: Step,
    *,
    config: Any,
    output_dir: str | Path,
    num_steps: int,
    finite: tuple[str, ...] = ("loss", "grad_norm"),
    shown: tuple[str, ...],
    description: str,
    dropped: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """Runs ``step`` until ``num_steps`` are done, from the newest checkpoint in ``output_dir``.

    A run interrupted at any moment and started again ends in the same state, bit for bit, but for
    what goes by seconds of computing (slow videos skipped, expressions not decided). Every process
    of a distributed run calls it; the first one writes config and logs. A state is saved only once
    the metrics of the step that made it are known to be finite.

    Args:
        state: the fresh state; also the template that checkpoints must fit, and whose shardings
            they get.
        batches: the data from its start.
        step: one update.
        config: the recipe's; its field ``run`` is a ``RunConfig``.
        finite: metrics that every step has, and that stop the run where they are not finite.
        shown: metrics that the progress bar shows.
        description: what is being done, for the bar.
        dropped: rows that are not trained on (`skip_log.SkipLog`).

    Returns:
        The final state, or that after ``config.run.export_step``.

    Raises:
        UserError: ``output_dir`` holds a run of another config, or a checkpoint that cannot be
            used; or a step was not finite.
        Terminated: SIGTERM ended the run; its state is saved.
        KeyboardInterrupt: SIGINT did.
    """
    output_dir = Path(output_dir)
    with Checkpoints(
        output_dir / "checkpoints",
        keep_last=config.run.keep_last,
        keep_best=config.run.keep_best,
        keep_steps=[config.run.export_step],
    ) as checkpoints:
        state, done = resume(checkpoints, state, batches, config, output_dir)
        check_export_step(config.run, checkpoints.steps, done=done, num_steps=num_steps)
        if jax.process_index() == 0:
            atomic_write(output_dir / "config.json", to_json(config))
            print(f"{description}: {_what_comes(done, num_steps)} in {output_dir}", flush=True)
        log = RunLog(
            output_dir,
            config,
            done=done,
            num_steps=num_steps,
            finite=finite,
            shown=shown,
            description=description,
            dropped=dropped,
        )
        with log, StopRequest() as stop:

            def save() -> None:
                log.settle()
                checkpoints.save(
                    done,
                    state,
                    config=to_json(config),
                    data_state=batches.get_state(),
                    metric=log.score(),
                )

            while not stop.requested() and done < num_steps:
                batch = next(batches)
                try:
                    result = step(state, batch)
                except Exception:
                    log.settle()  # the step before it, if not finite, is the reason
                    raise
                state, done = result.state, done + 1
                log.add(done, batch, result)
                if done % config.run.checkpoint_every == 0:
                    save()
            save()
            signal_number = stop.requested()
        if config.run.export_step and not signal_number:
            state = checkpoints.restore(state, config.run.export_step).state
    if signal_number == signal.SIGTERM:
        raise Terminated(f"saved after step {done} of {num_steps}; the same command goes on")
    if signal_number:
        raise KeyboardInterrupt
    return state


def check_export_step(
    config: RunConfig, saved: Sequence[int], *, done: int, num_steps: int
) -> None:
    """Refuses to export a step of which there is no checkpoint and will be none.

    Raises:
        UserError: says which there are.
    """
    step, every = config.export_step, config.checkpoint_every
    if step > num_steps:
        raise UserError(f"run.export_step is {step}, but the run has {num_steps} steps")
    if step <= done and step and step not in saved:
        raise UserError(f"run.export_step is {step}, but there are checkpoints of {list(saved)}")
    if done < step < num_steps and step % every:
        raise UserError(f"run.export_step is {step}, but steps are saved every {every}")


def _what_comes(done: int, num_steps: int) -> str:
    if done == num_steps:
        return f"all {num_steps} steps are done"
    if done:
        return f"going on after step {done} of {num_steps}"
    return f"{num_steps} steps, the first of which compiles,"
