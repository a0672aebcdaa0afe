"""Writing files so that a reader sees the old content or the new, never half of it."""

import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from resadapt_jax.errors import UserError


def atomic_write(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes ``content`` to a neighbouring temporary file and renames it onto ``path``.

    Parent folders are made. The bytes are on disk before the rename, so neither a killed process
    nor a lost machine leaves a truncated file behind.
    """
    _write_aside(Path(path), content, os.replace)


def write_if_absent(path: str | os.PathLike, content: str | bytes) -> None:
    """As `atomic_write`, but the first to write wins: a file that is there stays as it is."""
    try:
        _write_aside(Path(path), content, os.link)
    except FileExistsError:
        pass


def is_temporary(path: Path) -> bool:
    """Whether a file is one of those that a killed write leaves behind."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _write_aside(path: Path, content: str | bytes, place: Callable[[Path, Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of several machines may share the folder, so a process id would not do.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        place(temporary, path)
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
