"""Decoded frames kept on disk: read the second time, they need no decoder."""

import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resadapt_jax.data.container import Source
from resadapt_jax.files import atomic_write
from resadapt_jax.typing import Float, UInt8

Frames = tuple[UInt8[np.ndarray, "F height width 3"], Float[np.ndarray, " F"]]


@dataclass(frozen=True)
class FramesCache:
    """A folder of frames, not compressed. Several processes may share it; it is never emptied.

    An entry that cannot be read, or whose bytes are not those written, is none.
    """

    folder: str

    def get(self, key: str) -> Frames | None:
        """Frames and their seconds, if they are there."""
        try:
            # The file is a zip archive: its check sums tell whether the bytes are whole.
            with np.load(self._path(key), allow_pickle=False) as entry:
                return entry["frames"], entry["times"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def put(self, key: str, frames: Frames) -> None:
        """Keeps frames and their seconds; an entry that is there is written over."""
        file = io.BytesIO()
        np.savez(file, frames=frames[0], times=frames[1])
        atomic_write(self._path(key), file.getvalue())

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
