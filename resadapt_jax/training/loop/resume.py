"""Going on from a checkpoint, and going back to a step that went wrong."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from resadapt_jax.config import differences
from resadapt_jax.errors import UserError
from resadapt_jax.training.config import MAY_DIFFER_ON_RESUME
from resadapt_jax.training.loop.checkpoint import Checkpoints, Restored
from resadapt_jax.training.loop.protocols import Batches

_log = logging.getLogger(__name__)


def resume(
    checkpoints: Checkpoints, state: Any, batches: Batches, config: Any, output_dir: Path
) -> tuple[Any, int]:
    """The state to go on from and the steps it has done; ``batches`` is set to its place.

    Args:
        state: the fresh state, returned as it is where there is no checkpoint.

    Raises:
        UserError: a run of another config; or a newest checkpoint that cannot be used, unless
            ``config.run.resume_from_previous`` and one before it can.
    """
    restored = _newest_usable(checkpoints, state, config, output_dir)
    if restored is None:
        return state, 0
    batches.set_state(restored.data_state)
    return restored.state, restored.step


class Replayed(NamedTuple):
    """A run just before a step that was not finite."""

    step: int
    """The step's number; ``state`` has done one less."""
    state: Any
    batch: Any
    """As it was saved."""


def replay(
    state: Any, batches: Batches, step: Any, *, config: Any, output_dir: str | Path
) -> Replayed:
    """Takes a run that stopped at a step that was not finite to just before that step.

    It starts at the newest checkpoint and adds no log and no checkpoint.
    ``step(replayed.state, replayed.batch)`` then gives the metrics that stopped the run, bit for
    bit.

    Args:
        state, batches, step, config, output_dir: as given to ``loop.run``.

    Raises:
        UserError: the run saved no such batch, or what ``resume`` raises.
    """
    output_dir = Path(output_dir)
    path, failed = _saved_batch(output_dir)
    with Checkpoints(output_dir / "checkpoints") as checkpoints:
        state, done = resume(checkpoints, state, batches, config, output_dir)
    if done >= failed:
        raise UserError(f"{path} is of step {failed}, but the run has gone on to step {done}")
    while done < failed - 1:
        state = step(state, next(batches)).state
        done += 1
    return Replayed(step=failed, state=state, batch=_read_batch(path, next(batches)))


def save_batch(output_dir: Path, step: int, batch: Any) -> Path:
    """Writes this process's share of a batch for ``replay``, the arrays by their names."""
    path = _batch_folder(output_dir) / f"{step}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    for former in path.parent.glob("*.npz"):  # of a run that this one took the place of
        former.unlink()
    np.savez(path, **_named_leaves(batch))
    return path


def _newest_usable(
    checkpoints: Checkpoints, template: Any, config: Any, output_dir: Path
) -> Restored | None:
    refused: list[int] = []
    for step in reversed(checkpoints.steps):
        try:
            changed = differences(checkpoints.config(step), config, ignore=MAY_DIFFER_ON_RESUME)
            restored = None if changed else checkpoints.restore(template, step)
        except UserError as error:
            if not config.run.resume_from_previous:
                hint = "remove that folder to start anew"
                if len(checkpoints.steps) > 1:
                    hint = "--run.resume-from-previous goes on from the one before it"
                raise UserError(f"{error}; {hint}") from error
            _log.warning("%s; trying the one before it", error)
            refused.append(step)
            continue
        if changed:
            raise UserError(
                f"{output_dir} holds a run of another config ({'; '.join(changed)}); "
                "give --output-dir another folder, or remove that one"
            )
        if refused:
            checkpoints.set_aside(refused)
            _log.warning("going on from checkpoint %s", checkpoints.directory / str(step))
        return restored
    if refused:
        raise UserError(f"none of the checkpoints {refused} in {checkpoints.directory} can be used")
    return None


def _batch_folder(output_dir: Path) -> Path:
    return output_dir / "nonfinite" / f"process_{jax.process_index()}"


def _saved_batch(output_dir: Path) -> tuple[Path, int]:
    folder = _batch_folder(output_dir)
    paths = sorted(folder.glob("*.npz"), key=lambda path: int(path.stem))
    if not paths:
        raise UserError(f"no step of the run in {output_dir} was not finite: no batch in {folder}")
    return paths[-1], int(paths[-1].stem)


def _named_leaves(batch: Any) -> dict[str, Any]:
    """By their paths within "batch", as np.savez takes no array called "file"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path({"batch": batch})
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _read_batch(path: Path, like: Any) -> Any:
    with np.load(path) as saved:
        leaves = [saved[name] for name in _named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
