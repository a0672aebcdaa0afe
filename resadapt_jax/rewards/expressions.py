"""The process that compares expressions, started when the first two need it."""

import dataclasses
import functools
import os
import threading

from resadapt_jax.rewards.json_process import JsonProcess, ProcessDied

_MODULE = "resadapt_jax.rewards.expressions_process"
# On a machine that is busy with other things CPU time takes much longer than itself.
_PATIENCE = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether two expressions are equivalent, and how that was found or why it was not.

    Where time or memory ran out it is not ``decided``, and not known to be different either.
    """

    equal: bool
    reason: str
    decided: bool = True


def equivalent(
    answer: str, truth: str, *, relative: float, absolute: float, seconds: float
) -> Verdict:
    """Whether two LaTeX expressions are, as far as math-verify finds out in so much CPU time.

    Real constants are if |answer - truth| ≤ max(absolute, relative·|truth|). May be called from any
    thread; one pair is compared at a time.

    Raises:
      ImportError: math-verify is not installed.
    """
    try:
        return decide(answer, truth, relative=relative, absolute=absolute, seconds=seconds)
    except Undecided as why:
        return Verdict(equal=False, reason=f"not decided{why}", decided=False)


@functools.lru_cache(maxsize=1 << 14)
def decide(answer: str, truth: str, *, relative: float, absolute: float, seconds: float) -> Verdict:
    """As `equivalent`, remembered; raises `Undecided`, which is not, where nothing was found."""
    question = {"answer": answer, "truth": truth, "relative": relative, "absolute": absolute}
    return _CHECKER.ask({**question, "seconds": seconds}, patience=_PATIENCE + 20.0 * seconds)


def running() -> JsonProcess | None:
    """The process, if one was started."""
    return _CHECKER.child


class Undecided(Exception):
    """Time or memory ran out, or the process ended: another try may end otherwise."""


class _Checker:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.child: JsonProcess | None = None
        self._owner = 0

    def ask(self, question: dict[str, str | float], patience: float) -> Verdict:
        with self._lock:
            child = self._started()
            try:
                child.send(question)
                reply = child.receive(patience)
            except ProcessDied as died:
                self._close()
                raise Undecided(f": the checker is gone, {died}") from died
            except BaseException:  # Ctrl-C: its reply must not be taken for that to the next pair
                self._close()
                raise
        if "undecided" in reply:
            raise Undecided(reply["undecided"])
        return Verdict(**reply)

    def _started(self) -> JsonProcess:
        # a forked copy of this process must not talk on the same pipes
        mine = self.child is not None and self._owner == os.getpid()
        if not mine or not self.child.alive:
            if mine:
                self._close()
            self.child, self._owner = JsonProcess(_MODULE), os.getpid()
        return self.child

    def _close(self) -> None:
        if self.child is not None:
            self.child.close()
            self.child = None


_CHECKER = _Checker()
