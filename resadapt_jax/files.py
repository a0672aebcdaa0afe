"""Writing files so that a reader sees the old content or the new, never half of it."""

import os
import tempfile
from pathlib import Path

from resadapt_jax.errors import UserError


def atomic_write(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes ``content`` to a neighbouring temporary file and renames it onto ``path``.

    Parent folders are made. The bytes are on disk before the rename, so neither a killed process
    nor a lost machine leaves a truncated file behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(directory: str | os.PathLike) -> None:
    """Raises ``UserError`` unless files can be written to ``directory``, which need not exist yet.

    It leaves nothing behind: the trial is a nameless file in the nearest folder that exists.
    """
    directory = Path(directory)
    nearest = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror if nearest.is_dir() else f"{nearest} is not a folder"
        raise UserError(f"cannot write to {directory}: {reason}") from error
