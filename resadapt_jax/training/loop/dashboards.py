"""Dashboards that get a run's scalars besides ``metrics.jsonl``: TensorBoard, Weights & Biases."""

import importlib
import json
import struct
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from resadapt_jax.errors import UserError
from resadapt_jax.files import atomic_write


class TensorBoard:
    """Event files in ``directory``; what is there of steps after ``done`` is removed.

    A reader that has already shown those steps is told to forget them (``purge_step``).
    """

    def __init__(self, directory: str | Path, *, done: int):
        for path in Path(directory).glob("events.out.tfevents.*"):
            _drop_events_after(path, done)
        # Names tell seconds; a run that is resumed within one must not overwrite its own file.
        suffix = f".{done:09d}"
        self._writer = SummaryWriter(str(directory), purge_step=done + 1, filename_suffix=suffix)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of a Weights & Biases project, the same one when the training is resumed.

    It refuses a step that it has, so steps that come again after a resume are not there twice.

    Args:
        directory: of the run; keeps the name of the W&B run.
        project: to log to.
        config: the run's config by ``config.to_json``.

    Raises:
        UserError: the package wandb is not installed.
    """

    def __init__(self, directory: str | Path, *, project: str, config: str):
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError(
                "run.wandb_project needs the package wandb: pip install wandb"
            ) from error
        path = Path(directory) / "wandb_run.txt"
        if not path.exists():
            atomic_write(path, uuid.uuid4().hex)
        self._run = wandb.init(
            project=project,
            id=path.read_text(),
            resume="allow",
            dir=str(directory),
            config=json.loads(config),
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _drop_events_after(path: Path, done: int) -> None:
    data = path.read_bytes()
    kept = [whole for whole, event in _events(data) if event.step <= done]
    if len(kept) < 2:  # the first names the format
        path.unlink()
    elif sum(map(len, kept)) < len(data):
        atomic_write(path, b"".join(kept))


def _events(data: bytes) -> Iterator[tuple[bytes, Event]]:
    """The whole events of a file: length, checksum of that, the message, its checksum.

    The last one of a killed process may be incomplete, and is none.
    """
    start = 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + length + 16
        if end > len(data):
            return
        yield data[start:end], Event.FromString(data[start + 12 : end - 4])
        start = end
