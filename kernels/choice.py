"""What every operation does to choose among its backends."""

import os
import warnings
from enum import Enum
from functools import cache
from typing import TypeVar

BackendT = TypeVar("BackendT", bound=Enum)


class BackendError(ValueError):
    """The backend that was asked for does not exist, or cannot serve the call."""


def choose(backend: BackendT | str | None, variable: str, auto: BackendT) -> BackendT:
    """The backend that the call names; if none or ``auto``, the environment's; else ``auto``.

    Args:
        backend: a member of the enumeration that ``auto`` is of, its value, or nothing.
        variable: of the environment; empty counts as unset.

    Raises:
        BackendError: one of them names no backend.
    """
    named = auto if backend is None else _named(backend, auto, "backend")
    if named is not auto:
        return named
    return _named(os.environ.get(variable) or auto, auto, variable)


def _named(name: object, auto: BackendT, where: str) -> BackendT:
    try:
        return type(auto)(name)
    except ValueError:
        names = ", ".join(backend.value for backend in type(auto))
        raise BackendError(f"{where} is {name!r}, it may be one of {names}") from None


@cache
def warn_once(message: str) -> None:
    """Once a process, however many layers ask and whatever the filters say of repetitions."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)
