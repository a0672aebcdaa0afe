"""Checkpoints: the state, the data iterator, the config and the versions, all or nothing.

A checkpoint is written beside the others under a temporary name and renamed when complete, so a
process killed at any moment leaves the previous one as the newest. Saving returns once the arrays
are copied; the files are written while training goes on.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as orbax

from resadapt_jax.errors import UserError
from resadapt_jax.versions import versions

StateT = TypeVar("StateT")

_log = logging.getLogger(__name__)
_COMPLETE = "commit_success.txt"
_TEMPORARY = ".orbax-checkpoint-tmp"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """What a checkpoint holds."""

    state: Any
    """The pytree that was saved, bit for bit, placed as the template asked."""
    step: int
    """Updates done when it was saved."""
    data_state: Any
    """The data iterator's state as given to ``save``."""
    config: str
    """The run's config, as ``config.to_json`` wrote it."""
    versions: dict[str, str]
    """The library versions that saved it."""


class Checkpoints:
    """The checkpoints of one run, one folder per step.

    Args:
      directory: where they are; made if absent.
      keep_last: how many of the newest are kept.
      keep_best: how many of those with the highest ``metric`` are kept besides; may be 0.
      keep_steps: steps that are kept in any case.

    Use it as a context manager: leaving it waits for the save in progress.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        keep_steps: Sequence[int] = (),
    ):
        self.directory = Path(directory).absolute()
        self._versions = versions()
        if jax.process_index() == 0 and self.directory.is_dir():
            _set_unfinished_aside(self.directory)
            _drop_damaged_scores(self.directory)
        _wait_for_all("the checkpoints are in order")
        keep = orbax.training.preservation_policies
        policies = [keep.LatestN(keep_last), keep.CustomSteps(keep_steps)]
        if keep_best:
            best = keep.BestN(
                get_metric_fn=lambda metrics: metrics["metric"],
                n=keep_best,
                keep_checkpoints_without_metrics=False,
            )
            policies.append(best)
        self._manager = orbax.training.Checkpointer(
            self.directory,
            preservation_policy=keep.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in rising order."""
        return [checkpoint.step for checkpoint in self._manager.checkpoints]

    def save(
        self, step: int, state: Any, *, config: str, data_state: Any, metric: float | None = None
    ) -> None:
        """Saves in the background; waits first for the previous save, and raises if that failed.

        Args:
          step: updates done. A step that already has a checkpoint is left as it is.
          state: a pytree of arrays, typed rng keys and plain numbers. It may be donated to the
            next step at once: the arrays are copied before this returns.
          config: the run's config by ``config.to_json``.
          data_state: the data iterator's state, of JSON's types.
          metric: what ``keep_best`` goes by, more is better; None never counts among the best.
        """
        if step in self.steps:
            return
        self._manager.save_async(
            step,
            state,
            force=True,
            metrics=None if metric is None else {"metric": float(metric)},
            custom_metadata={
                "config": config,
                "data_state": data_state,
                "leaves": _describe(state),
                "versions": self._versions,
            },
        )

    def restore(self, template: StateT, step: int | None = None) -> Restored | None:
        """The newest checkpoint, or that of ``step``; None when there is none at all.

        Args:
          template: a state of the same structure, of arrays or ``jax.ShapeDtypeStruct``; each leaf
            is placed as the template's is (on the default device if that says nothing).

        Raises:
          UserError: no checkpoint of that step, one whose leaves differ from the template's
            (naming the first), or one that cannot be read.
        """
        self.wait()
        if step is None:
            if not self.steps:
                return None
            step = self.steps[-1]
        path, extra = self.directory / str(step), self._written(step)
        _check_leaves(path, extra["leaves"], _describe(template))
        with _damage_is_the_users(path):
            state = self._manager.load(step, jax.tree.map(_placed, template))
        kept = {name: extra[name] for name in ("data_state", "config", "versions")}
        return Restored(state=state, step=step, **kept)

    def config(self, step: int) -> str:
        """The config that the checkpoint of ``step`` was saved with.

        Raises:
          UserError: no checkpoint of that step, or one that cannot be read.
        """
        return self._written(step)["config"]

    def set_aside(self, steps: Sequence[int]) -> None:
        """Renames checkpoints that cannot be used, so that their steps can be saved again."""
        if jax.process_index() == 0:
            for step in steps:
                path = self.directory / str(step)
                _rename(path, f"{step}.refused")
        _wait_for_all("refused checkpoints are renamed")
        self._manager.reload()

    def wait(self) -> None:
        """Waits until the save in progress is on disk; raises if it failed."""
        self._manager.wait()

    def close(self) -> None:
        """Waits for the save in progress and releases the manager's threads."""
        self._manager.close()

    def _written(self, step: int) -> dict[str, Any]:
        """What ``save`` put beside the state."""
        path = self.directory / str(step)
        if step not in self.steps:
            raise UserError(f"no checkpoint {path}; there are {self.steps}")
        with _damage_is_the_users(path):
            extra = self._manager.metadata(step).custom_metadata
        if not {"leaves", "config", "data_state", "versions"} <= set(extra or ()):
            raise UserError(f"checkpoint {path} is another program's, or its metadata is damaged")
        return extra


def _describe(state: Any) -> dict[str, str]:
    """``{"params.head.bias": "float32[8]", ...}``, one entry per leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): _describe_leaf(leaf)
        for path, leaf in leaves
    }


def _describe_leaf(leaf: Any) -> str:
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


@contextlib.contextmanager
def _damage_is_the_users(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what orbax raises for a damaged file has no common base
        reason = str(error.__cause__ or error).partition("\n")[0][:200]
        raise UserError(f"checkpoint {path} cannot be read: {reason}") from error


def _check_leaves(path: Path, saved: dict[str, str], wanted: dict[str, str]) -> None:
    for name in dict.fromkeys((*wanted, *saved)):
        there, here = saved.get(name, "absent"), wanted.get(name, "absent")
        if there != here:
            raise UserError(
                f"checkpoint {path} is of another model: {name} is {there} there, {here} here"
            )


def _placed(leaf: Any) -> Any:
    """A struct without a sharding gets the default device; orbax would guess from the file."""
    if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
    return leaf


def _set_unfinished_aside(directory: Path) -> None:
    """Logs what a killed process left half-written, and hides it from the manager.

    The manager itself removes what has a temporary name. A step's folder without its mark of
    completion (a copy or a removal that was cut short) would pass for a checkpoint, so it is
    renamed.
    """
    for path in sorted(directory.iterdir()):
        if _TEMPORARY in path.name:
            _log.warning("ignoring unfinished checkpoint %s", path)
        elif path.name.isdigit() and not (path / _COMPLETE).exists():
            _log.warning("ignoring unfinished checkpoint %s", path)
            _rename(path, f"{path.name}.unfinished")


def _drop_damaged_scores(directory: Path) -> None:
    """A metric that cannot be read would keep the manager from reading any checkpoint.

    The checkpoint stays, no longer among the best.
    """
    for path in directory.glob("*/metrics/metrics"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            _log.warning("dropping the damaged metric of checkpoint %s", path.parents[1])
            shutil.rmtree(path.parent)


def _rename(path: Path, name: str) -> None:
    aside = path.with_name(name)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _wait_for_all(what: str) -> None:
    """No process lists the folder before the first one has put it in order."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
