"""How many frames of a clip are taken, and which: one rule for all that read.

The allocator and the backbone see the same frames, so the rule stands here once.
"""

import math
from dataclasses import dataclass

import numpy as np

from resadapt_jax.errors import UserError
from resadapt_jax.typing import Float, Int


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How many frames of a clip are taken.

    Attributes:
        fps: frames per second of video.
        min_frames: of a clip, as far as it has so many; a row may ask for others.
        max_frames: of a clip; a row may ask for fewer.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 128

    def __post_init__(self):
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise UserError(f"sampling: fps must be positive, got {self.fps}")
        if not 1 <= self.min_frames <= self.max_frames or self.max_frames < 2:
            raise UserError(
                "sampling: need 1 <= min_frames <= max_frames >= 2, got "
                f"{self.min_frames} and {self.max_frames}"
            )

    def frame_count(
        self, duration: float, min_frames: int | None = None, max_frames: int | None = None
    ) -> int:
        """Even count: duration · fps, rounded, within the limits; at least two.

        Args:
            duration: seconds that frames are taken from.
            min_frames, max_frames: a row's own limits, in place of these; never more than
                `max_frames` of the corpus, which the run has made room for.
        """
        most = min(self.max_frames, max_frames or self.max_frames)
        most = max(2, most - most % 2)
        least = self.min_frames if min_frames is None else min_frames
        wanted = 2 * round(min(duration * self.fps, most) / 2)
        return min(max(wanted, least + least % 2, 2), most)


def planned_frames(
    duration: float,
    num_frames: int | None,
    config: SamplingConfig,
    *,
    start: float | None = None,
    end: float | None = None,
    min_frames: int | None = None,
    max_frames: int | None = None,
) -> int:
    """Frames that a video gives at most, by what its container states.

    A file's header and its packets need not agree. Before training only headers are read, and what
    is taken in training must fit in what was then made room for: so both go by the header.

    Args:
        duration, num_frames: stated; the latter ``None`` if it is not.
        start, end, min_frames, max_frames: a row's own.

    Raises:
        UserError: the clip ends before ``start``.
    """
    start = start or 0.0
    if start >= duration:
        raise UserError(f"it is asked for from {start:g} s on, but lasts {duration:g} s")
    seconds = min(duration, math.inf if end is None else end) - start
    count = config.frame_count(seconds, min_frames, max_frames)
    if num_frames is not None:
        count = min(count, max(1, math.floor(num_frames * seconds / duration + 1e-6)))
    return count


def frames_within(
    times: Float[np.ndarray, " F"], start: float | None, end: float | None
) -> Int[np.ndarray, " G"]:
    """Indices of the frames from ``start`` to ``end``, both included; never none.

    Where no frame lies between them, it is the one nearest to their middle. The last frame lasts as
    long as the others do on average.

    Raises:
        UserError: the clip ends before ``start``.
    """
    start, end = start or 0.0, math.inf if end is None else end
    slack = 1e-6  # times are sums of ticks: an asked 0.3 s must meet the frame at 0.3 s
    shown_for = (times[-1] - times[0]) / max(len(times) - 1, 1)
    if start > times[-1] + shown_for + slack:
        raise UserError(
            f"it is asked for from {start:g} s on, but its last frame is at {times[-1]:g} s"
        )
    inside = np.flatnonzero((times >= start - slack) & (times <= end + slack))
    if len(inside):
        return inside
    return np.array([np.argmin(np.abs(times - (start + min(end, times[-1])) / 2))])


def spread(times: Float[np.ndarray, " F"], count: int) -> Int[np.ndarray, " N"]:
    """Indices of min(F, count) different frames, as evenly spaced in time as the frames allow.

    Frame i of the result is the one nearest to t_first + (t_last - t_first) · i / (count - 1),
    or its nearest free neighbour where several targets fall on one frame.

    Args:
        times: strictly increasing.
    """
    total = len(times)
    count = min(total, count)
    targets = np.linspace(times[0], times[-1], count)
    after = np.clip(np.searchsorted(times, targets), 1, max(total - 1, 1))
    before = after - 1
    after = np.minimum(after, total - 1)
    nearest = np.where(targets - times[before] <= times[after] - targets, before, after)
    rank = np.arange(count)
    different = np.maximum.accumulate(nearest - rank) + rank
    return np.minimum(different, total - count + rank)
