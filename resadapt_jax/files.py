"""Writing files so that a reader sees the old content or the new, never half of it."""

import os
from pathlib import Path


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
