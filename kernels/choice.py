"""What every operation does to choose among its backends."""

import os
import warnings
from enum import Enum
from functools import cache
from typing import TypeVar

BackendT = TypeVar("BackendT", bound=Enum)


class BackendError(ValueError):
    """The backend that was asked for does not exist, or cannot serve the call."""


def from_environment(variable: str, default: BackendT) -> BackendT:
    """The backend that an environment variable names, or the default.

    Raises:
        BackendError: the variable holds no backend's name.
    """
    name = os.environ.get(variable, default.value)
    try:
        return type(default)(name)
    except ValueError:
        names = ", ".join(backend.value for backend in type(default))
        raise BackendError(f"{variable} is {name!r}, it may be one of {names}") from None


@cache
def warn_once(message: str) -> None:
    """Once a process, however many layers ask and whatever the filters say of repetitions."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)
