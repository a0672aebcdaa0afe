"""Whether two expressions are equivalent, by math-verify; run as a process of its own.

    python -m resadapt_jax.rewards.expressions_process

An expression is read by a LaTeX grammar, never evaluated as code. What a model writes can keep a
computer algebra system busy for ever, or fill the memory; timers of Python cannot stop a long
operation on big integers. So there are three limits, and this process may be lost to the last two:
CPU time, after which an exception ends the work; twice that, and the kernel ends the process; and
memory.
"""

import contextlib
import functools
import logging
import re
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any

MEMORY_BYTES = 2 << 30

# Parsed and compared at the start, so that the first answers are not charged for a cold start.
_WARM_UP = ((r"\frac{x^2-1}{x-1}", "x+1"), (r"[0,\sqrt{2})", r"(1,\pi)"))

# Of "x + 4m" and "x + m" the m would be taken off as a unit. The imaginary i is none.
_LAST_LETTER = re.compile(
    r"(?:(?<=[0-9}])(?<!circ\})|(?<=[-+*/=<>][ ])|(?<=\\times[ ])|(?<=\\cdot[ ]))[A-Za-hj-z]$"
)


class _OutOfTime(BaseException):
    """No ``except Exception`` of a library shall swallow it."""


def prepare() -> None:
    """Imports what takes long, sets the limits that hold throughout and warms up."""
    import math_verify  # noqa: F401

    logging.disable(logging.CRITICAL)
    with contextlib.suppress(ValueError, OSError):  # macOS has no limit of this kind
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _raise_out_of_time)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    for answer, truth in _WARM_UP:
        equivalent(answer, truth, 1e-2, 1e-2)


def reply(question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """``{"equal": bool, "reason": str}`` for a question with the arguments of `equivalent`.

    ``seconds`` is the CPU time it may take. ``{"undecided": str}`` if that or memory runs out.
    """
    seconds = question.pop("seconds")
    try:
        _set_timers(seconds)
        try:
            equal, reason = equivalent(**question)
        finally:
            _set_timers(0.0)
        found = {"equal": equal, "reason": reason}
    except _OutOfTime:
        _set_timers(0.0)
        found = {"undecided": f" in {seconds:g} s of CPU time"}
    except MemoryError:
        found = {"undecided": " within the memory allowed"}
    except Exception as error:  # a grammar and a computer algebra system raise whatever they like
        found = {"equal": False, "reason": f"not comparable ({type(error).__name__})"}
    yield found


def equivalent(answer: str, truth: str, relative: float, absolute: float) -> tuple[bool, str]:
    """Whether two LaTeX expressions are equivalent, and how that was found.

    Real constants are if |answer - truth| ≤ max(absolute, relative·|truth|).
    """
    from math_verify import verify

    expected = _parse(truth)
    if expected is None:
        return False, "the truth is no expression"
    given = _parse(answer)
    if given is None:
        return False, "the answer is no expression"
    numbers = _real(given), _real(expected)
    if None not in numbers:
        difference = abs(numbers[0] - numbers[1])
        equal = difference <= max(absolute, relative * abs(numbers[1]))
        return equal, f"{numbers[0]:.6g} {'≈' if equal else '≠'} {numbers[1]:.6g}"
    equal = verify(
        expected, given, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
    )
    return bool(equal), "equivalent" if equal else "not equivalent"


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex

    config = NormalizationConfig(units=True, malformed_operators=True, nits=True, boxed="none")
    latex = normalize_latex(_LAST_LETTER.sub(r"{\g<0>}", text), config)
    try:
        return latex2sympy(
            latex,
            is_real=not should_treat_as_complex(latex),
            convert_degrees=False,
            normalization_config=None,
        )
    except MemoryError:
        raise
    except Exception:  # the grammar's errors are plain exceptions
        return None


def _real(expression: Any) -> float | None:
    """The value of a constant that is a finite real number, None of everything else."""
    import sympy

    if not isinstance(expression, sympy.Expr) or expression.free_symbols:
        return None
    value = expression.evalf(15)
    if not value.is_Number or not value.is_finite or abs(value) > sys.float_info.max:
        return None
    return float(value)


def _set_timers(seconds: float) -> None:
    """0 stops them. The first repeats, lest what it raises be swallowed."""
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds / 4)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * seconds)


def _raise_out_of_time(signum: int, frame: Any) -> None:
    raise _OutOfTime


if __name__ == "__main__":
    from resadapt_jax.rewards.json_process import serve

    serve(reply, prepare)
