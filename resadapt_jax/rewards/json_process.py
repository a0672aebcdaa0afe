"""Python processes that answer questions: a line of JSON in, lines of JSON out.

They are started, not forked (JAX runs threads), and do not import the program that started them,
so a script needs no ``if __name__ == "__main__"``.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

START_SECONDS = 120.0

_ROOT = Path(__file__).resolve().parents[2]


class ProcessDied(Exception):
    """The process ended, or gave no reply in time."""


class JsonProcess:
    """A process running ``python -m module``, whose main is `serve`; it ends with this object.

    Raises:
      ImportError: a library that it needs is not installed.
      RuntimeError: it does not start for another reason, which is on stderr.
    """

    def __init__(self, module: str) -> None:
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            # -P: nothing in the current folder stands in for a library
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        self._received = b""
        self._replies = selectors.DefaultSelector()
        self._replies.register(self.process.stdout, selectors.EVENT_READ)
        self._finalizer = weakref.finalize(self, _end, self.process, self._replies)
        try:
            ready = self.receive(START_SECONDS)
        except ProcessDied as died:
            self.close()
            raise RuntimeError(f"python -m {module} did not start: {died}") from died
        if ready != "ready":
            self.close()
            raise ImportError(ready)

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self.process.poll() is None

    def send(self, message: Any) -> None:
        """Asks a question; raises `ProcessDied` if the process is gone, to be closed then."""
        line = json.dumps(message).encode() + b"\n"
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except OSError as error:
            raise ProcessDied(f"it took no question: {error}") from error

    def receive(self, seconds: float) -> Any:
        """The next reply; raises `ProcessDied` as `send`, or if none comes in so many seconds."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._received:
            if not self._replies.select(max(0.0, deadline - time.monotonic())):
                raise ProcessDied(f"no reply in {seconds:g} s")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise ProcessDied(self._last_words())
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process; once is enough."""
        self._finalizer()

    def _last_words(self) -> str:
        try:
            code = self.process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def serve(answer: Callable[[Any], Iterator[Any]], prepare: Callable[[], None]) -> None:
    """Main of such a process: says "ready" once prepared, then writes the replies to each question.

    Returns when the process that asks is gone. Ctrl-C is that process's to handle. What libraries
    print goes nowhere.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    _silence(1)
    try:
        prepare()
        ready = "ready"
    except ImportError as error:
        ready = str(error)
    print(json.dumps(ready), file=replies, flush=True)
    _silence(2)
    for line in sys.stdin.buffer:
        for reply in answer(json.loads(line)):
            print(json.dumps(reply), file=replies, flush=True)


def _silence(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _end(process: subprocess.Popen, replies: selectors.BaseSelector) -> None:
    replies.close()
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        try:
            pipe.close()
        except OSError:  # what was left to write has nobody to read it
            pass
