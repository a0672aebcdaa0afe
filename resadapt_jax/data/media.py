"""Where the bytes of a medium come from, and what is said of those that cannot be read."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resadapt_jax.data.row import Medium, RowError
from resadapt_jax.errors import UserError

# "NASA: launch.mp4" is a file's name, "file:launch.mp4" and "s3://launch.mp4" are not.
_URL = re.compile(r"[a-z][a-z0-9+.-]*:/|(file|data):", re.IGNORECASE)


def locate(medium: Medium, root: str | os.PathLike) -> Path | bytes:
    """The file of a medium, or its bytes if the row holds them.

    A path is taken from ``root`` on and must stay below it, by its letters; what a symbolic link
    in there points to is its owner's choice.

    Raises:
        RowError: a URL, a path that leaves the root, no such file, or not a file.
    """
    if medium.data is not None:
        return medium.data
    if _URL.match(medium.path):
        raise RowError("a URL", f"{medium.path[:200]}; only local files are read")
    root = os.path.abspath(root)
    path = os.path.normpath(os.path.join(root, medium.path))
    if os.path.commonpath([root, path]) != root:
        raise RowError("outside the media root", f"{medium.path} leaves {root}")
    if not os.path.lexists(path):
        raise RowError("no such file", path)
    if not os.path.isfile(path):
        raise RowError("not a file", path)
    return Path(path)


@contextmanager
def as_row_error(medium: Medium) -> Iterator[None]:
    """Whatever is raised where a medium is read becomes a `RowError`."""
    kind = f"unreadable {medium.kind}"
    try:
        yield
    except RowError:
        raise
    except UserError as error:
        detail = str(error) if medium.path in str(error) else f"{medium.path}: {error}"
        raise RowError(kind, detail) from error
    except Exception as error:  # on damaged files FFmpeg's and Pillow's wrappers raise anything
        raise RowError(kind, f"{medium.path}: {type(error).__name__} {error}") from error
