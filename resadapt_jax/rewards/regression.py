"""Regression: how near a number comes."""

from resadapt_jax.rewards.numeric import parse_number
from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.text import brief


def regression(answer: str, truth: str) -> Grade:
    """1 - min(1, |answer - truth| / |truth|); of a truth of 0, whether the answer is 0 too.

    0 if either is no number.
    """
    given, expected = parse_number(answer), parse_number(truth)
    if expected is None:
        return Grade(accuracy=0.0, reason=f"no number in truth {brief(truth)}", extracted="")
    if given is None:
        return Grade(accuracy=0.0, reason=f"no one number in {brief(answer)}", extracted="")
    if expected == 0.0:
        accuracy, error = float(given == 0.0), "of a truth of 0"
    else:
        share = abs(given - expected) / abs(expected)
        accuracy, error = 1.0 - min(1.0, share), f"off by {share:.3g} of it"
    reason = f"{given:.10g} vs {expected:.10g}, {error}"
    return Grade(accuracy=accuracy, reason=reason, extracted=f"{given:.10g}")
