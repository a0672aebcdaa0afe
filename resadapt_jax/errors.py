"""Errors that are the user's to mend, and how a command line reports them."""

import sys
from collections.abc import Callable

from kernels.choice import BackendError


class UserError(ValueError):
    """A mistake in what the user gave (a path, a field, a file): one clear line, no traceback."""


def run_cli(main: Callable[[], None]) -> int:
    """Runs a program's ``main`` and returns its exit code.

    0 when it returns, 2 and ``error: ...`` on stderr for a ``UserError`` or a kernel's backend that
    cannot be had, 130 after Ctrl-C. Anything else is a bug and keeps its traceback.
    """
    try:
        main()
    except (UserError, BackendError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
