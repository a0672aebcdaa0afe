"""Stopping a run from outside, so that its state is saved and every process agrees."""

import os
import signal
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Lets the step in progress finish when a process is asked to stop.

    While it is open, a first SIGINT or SIGTERM is noted, saying so on stderr; a second one acts as
    usual.
    """

    def __init__(self):
        self._received = 0

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *exception) -> None:
        self._restore()

    def requested(self) -> int:
        """The number of the signal that any process received, or 0.

        Every process must ask after the same steps: they wait for each other.
        """
        if jax.process_count() == 1:
            return self._received
        return int(multihost_utils.process_allgather(np.int32(self._received)).max())

    def _note(self, number: int, frame: Any) -> None:
        self._received = number
        self._restore()
        # Past the streams of Python, which may be in the middle of a write; below a progress bar.
        line = "stopping: finishing the step in progress and saving; press again to stop at once\n"
        os.write(2, (("\n" if sys.stderr.isatty() else "") + line).encode())

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
