"""Whether the evidence got the pixels, and what became of the answers."""

from typing import NamedTuple

import numpy as np

from resadapt_jax.rewards import SUCCESS_THRESHOLD
from resadapt_jax.typing import Bool, Float


class Changes(NamedTuple):
    """What became of answers, as counts of clips: right at both, at full size only, at neither."""

    kept: int
    lost: int
    gained: int
    wrong: int


def hit_rate(
    scales: Float[np.ndarray, "B K"], evidence: Bool[np.ndarray, "B K"]
) -> Float[np.ndarray, " B"]:
    """Share of a clip's E pairs of evidence that are among its E largest scales.

    Pairs that tie for the last places share them, so that equal scales hit E / K.

    Raises:
        ValueError: a clip without evidence.
    """
    num_evidence = evidence.sum(axis=1)
    if not num_evidence.all():
        raise ValueError("hit_rate needs evidence in every clip")
    ordered = -np.sort(-scales, axis=1)
    last = np.take_along_axis(ordered, num_evidence[:, None] - 1, axis=1)
    above, tied = scales > last, scales == last
    places = num_evidence - above.sum(axis=1)
    of_tied = (tied & evidence).sum(axis=1) / tied.sum(axis=1)
    return ((above & evidence).sum(axis=1) + places * of_tied) / num_evidence


def changes(
    full: Float[np.ndarray, " B"],
    allocated: Float[np.ndarray, " B"],
    threshold: float = SUCCESS_THRESHOLD,
) -> Changes:
    """Counts clips whose answers score above ``threshold`` at full size, or allocated, or both."""
    before, after = full > threshold, allocated > threshold
    cells = before & after, before & ~after, ~before & after, ~before & ~after
    return Changes(*(int(cell.sum()) for cell in cells))
