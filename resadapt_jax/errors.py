"""Errors that are the user's to mend, and how a command line reports them."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from kernels.choice import BackendError


class UserError(ValueError):
    """A mistake in what the user gave (a path, a field, a file): one clear line, no traceback."""


class Terminated(Exception):
    """A run was told to end (SIGTERM) and has saved its state: no failure, but it is not done."""


class CliParser(argparse.ArgumentParser):
    """An argument parser that raises a ``UserError`` where arguments are wrong."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def run_cli(main: Callable[[], None]) -> int:
    """Runs a program's ``main`` and returns its exit code.

    0 when it returns or was told to end, 2 and ``error: ...`` on stderr for a ``UserError`` or a
    kernel's backend that cannot be had, 130 after Ctrl-C. Anything else is a bug and keeps its
    traceback.
    """
    try:
        main()
    except (UserError, BackendError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Terminated as told:
        print(f"terminated: {told}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
