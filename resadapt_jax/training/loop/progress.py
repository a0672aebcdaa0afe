"""The progress of a run: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm


class Progress:
    """Shows steps done, named scalars and the time left.

    On a terminal a tqdm bar; otherwise (a file, CI) one line at most every ``interval`` seconds and
    one when all is done. Use it as a context manager: the bar's last state stays on screen however
    the run ends, and what is printed afterwards starts on its own line.

    Args:
      total: steps of the whole run.
      initial: steps done before this process started. Lines judge the time left without them, and
        without the first step of this process, which compiles; a bar judges by its last steps.
      description: what is being done, for example ``train``.
      file: where to; stderr by default.
      interval: seconds between lines when ``file`` is no terminal.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        total: int,
        *,
        initial: int = 0,
        description: str = "",
        file: TextIO | None = None,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.initial, self.done = total, initial, initial
        self._description, self._interval, self._clock = description, interval, clock
        self._file = sys.stderr if file is None else file
        self._printed = clock()
        self._first: tuple[int, float] | None = None
        self._bar = None
        if self._file.isatty():
            self._bar = tqdm(
                total=total,
                initial=initial,
                desc=description,
                file=self._file,
                dynamic_ncols=True,
                smoothing=0.1,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, **scalars: float) -> None:
        """Says that ``done`` steps are done in all, and shows ``scalars`` with three digits."""
        shown = {name: f"{value:.3g}" for name, value in scalars.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(done - self.done)
        self.done = done
        self._first = self._first or (done, self._clock())
        if self._bar is None and self._is_due():
            self._print_line(shown)

    def _is_due(self) -> bool:
        return self.done >= self.total or self._clock() - self._printed >= self._interval

    def _print_line(self, shown: dict[str, str]) -> None:
        self._printed = self._clock()
        scalars = "".join(f" {name}={value}" for name, value in shown.items())
        line = f"{self._description} {self.done}/{self.total}{scalars}{self._time_left()}".strip()
        print(line, file=self._file, flush=True)

    def _time_left(self) -> str:
        step, then = self._first
        if step == self.done < self.total:
            return ""
        per_step = (self._printed - then) / max(self.done - step, 1)
        return f" left {tqdm.format_interval(per_step * (self.total - self.done))}"
