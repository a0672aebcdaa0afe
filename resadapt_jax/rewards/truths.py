"""What makes a ground truth useless to its kind: each a reason, or None where there is none."""

from typing import Literal

from resadapt_jax.rewards.grounding_qa import split_grounded
from resadapt_jax.rewards.mathematics import is_worded, refusal, to_latex
from resadapt_jax.rewards.numeric import parse_number
from resadapt_jax.rewards.open_ended import has_words
from resadapt_jax.rewards.quantity import parse_quantity
from resadapt_jax.rewards.temporal import parse_intervals
from resadapt_jax.rewards.text import brief


def no_number(truth: str) -> str | None:
    found = parse_number(truth) is not None
    return None if found else f"no one number in ground truth {brief(truth)}"


def no_plain_number(truth: str) -> str | None:
    found = parse_quantity(truth) is not None
    return None if found else f"no plain number in ground truth {brief(truth)}"


def no_mathematics(truth: str) -> str | None:
    latex = to_latex(truth)
    if parse_quantity(truth) is not None or is_worded(latex):
        return None
    why_not = refusal(latex)
    return why_not and f"ground truth {brief(truth)}: {why_not}"


def no_words(truth: str, form: Literal["paper", "released"]) -> str | None:
    return None if has_words(truth, form) else f"no words in ground truth {brief(truth)}"


def no_interval(truth: str) -> str | None:
    intervals = parse_intervals(truth)
    if not intervals:
        return f"no interval in ground truth {brief(truth)}"
    if all(start == end for start, end in intervals):
        return f"no interval of any length in ground truth {brief(truth)}"
    if min(start for start, _ in intervals) < 0:
        return f"an interval before the clip in ground truth {brief(truth)}"
    return None


def no_grounded_answer(truth: str) -> str | None:
    answer, times = split_grounded(truth)
    return no_interval(times) if answer else f"no answer in ground truth {brief(truth)}"
