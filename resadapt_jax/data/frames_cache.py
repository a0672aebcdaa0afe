"""Decoded frames kept on disk: read the second time, they need no decoder."""

import hashlib
import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resadapt_jax.data.container import Source
from resadapt_jax.files import atomic_write
from resadapt_jax.typing import Float, UInt8

_log = logging.getLogger(__name__)
_FAILED: set[str] = set()  # folders that could not be written to, of which was told

Frames = tuple[UInt8[np.ndarray, "F height width 3"], Float[np.ndarray, " F"]]


@dataclass(frozen=True)
class FramesCache:
    """A folder of frames, not compressed. Several processes may share it; it is never emptied.

    An entry that cannot be read, or whose bytes are not those written, is none; one that cannot be
    written is not kept, which is said once.
    """

    folder: str

    def get(self, key: str) -> Frames | None:
        """Frames and their seconds, if they are there."""
        try:
            # The file is a zip archive: its check sums tell whether the bytes are whole.
            with np.load(self._path(key), allow_pickle=False) as entry:
                return entry["frames"], entry["times"]
        except Exception:  # a damaged archive raises anything
            return None

    def put(self, key: str, frames: Frames) -> None:
        """Keeps frames and their seconds; an entry that is there is written over."""
        file = io.BytesIO()
        np.savez(file, frames=frames[0], times=frames[1])
        try:
            atomic_write(self._path(key), file.getvalue())
        except OSError as error:
            if self.folder not in _FAILED:
                _FAILED.add(self.folder)
                _log.warning("decoded frames are not kept in %s: %s", self.folder, error.strerror)

    def _path(self, key: str) -> Path:
        return Path(self.folder) / key[:2] / f"{key}.npz"


def frames_key(source: Source, *settings: Any) -> str:
    """Name of what becomes of a file: by its path, size and time of change, or by its bytes.

    Args:
        settings: what the frames depend on besides, by its ``repr``.
    """
    if isinstance(source, bytes):
        identity = hashlib.sha256(source).hexdigest()
    else:
        state = source.stat()
        identity = f"{os.path.abspath(source)}\0{state.st_size}\0{state.st_mtime_ns}"
    return hashlib.sha256(f"{identity}\0{settings!r}".encode()).hexdigest()
