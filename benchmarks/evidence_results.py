"""Reads the figures that `evidence_jobs` wrote, and compares them over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from evidence_jobs import jobs, read_figures
from evidence_runs import Size
from scipy import stats

from resadapt_jax.evaluation.frontier import accuracy_at

Record = Mapping[str, Any]
Baseline = Callable[[Record], bool]
"""Which points of a frontier are a baseline's."""
LEVEL = 0.95
ROUNDING = 1e-9  # no difference


@dataclass(frozen=True)
class Estimate:
    """A value of each seed, written as their mean and its standard error."""

    values: Sequence[float]

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def stderr(self) -> float:
        """s / √n; 0 of a single seed."""
        return float(np.std(self.values, ddof=1)) / self.count**0.5 if self.count > 1 else 0.0

    def beyond(self, bound: float = 0.0) -> int:
        """1 above the bound, -1 below; 0 where the interval of Student's t at `LEVEL` has it.

        A single seed shows nothing.
        """
        if self.count < 2:
            return 0
        reach = stats.t.ppf((1 + LEVEL) / 2, self.count - 1) * self.stderr
        excess = self.mean - bound
        return int(np.sign(excess)) if abs(excess) > reach + ROUNDING else 0

    def alike(self) -> int:
        """How many seeds have the sign of the mean; none, if it has none."""
        return int(np.sum(np.sign(self.values) * np.sign(self.mean) > 0))

    def percent(self) -> str:
        return self._written(100, ".1f", " %")

    def number(self) -> str:
        return self._written(1, ".0f", "")

    def each(self) -> str:
        """Every seed's share, in %."""
        return ", ".join(f"{100 * value:.0f}" for value in self.values)

    def points(self) -> str:
        """A difference of two shares."""
        return self._written(100, "+.1f", " points")

    def plain(self) -> str:
        return self._written(1, ".3f", "")

    def signed(self) -> str:
        """A difference that is no share."""
        return self._written(1, "+.3f", "")

    def _written(self, factor: float, form: str, unit: str) -> str:
        error = f" ± {factor * self.stderr:{form.lstrip('+')}}" if self.count > 1 else ""
        mean = f"{factor * self.mean:{form}}"
        return f"{mean.replace('-', '') if not float(mean) else mean}{error}{unit}"


class Bound(NamedTuple):
    """That an estimate lies above a bound, or below it."""

    estimate: Estimate
    bound: float = 0.0
    above: bool = True

    def passed(self) -> int:
        """1 where it does, -1 where not, 0 where the interval has the bound."""
        return self.estimate.beyond(self.bound) * (1 if self.above else -1)

    def in_seeds(self) -> list[bool]:
        """Whether it does in each seed, taken alone."""
        return [(value > self.bound) == self.above for value in self.estimate.values]


class Results:
    """What there is of the figures, by job; those of another config are left out."""

    def __init__(self, folder: Path, size: Size):
        self._folder, self.size, self._known = folder, size, jobs(size)

    def job(self, name: str) -> Record | None:
        return read_figures(self._folder, self._known, name)

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return len(self._known)

    def all(self) -> dict[str, Record]:
        """The records of all jobs that are done."""
        found = {name: self.job(name) for name in self._known}
        return {name: record for name, record in found.items() if record is not None}

    def seeds(self, group: str) -> dict[int, Record]:
        """The records of a group by seed, as many as are done."""
        found = {seed: self.job(f"{group}/{seed}") for seed in self.size.seeds}
        return {seed: record for seed, record in found.items() if record is not None}

    def variant(self, name: str) -> dict[int, Record]:
        return self.seeds(f"variant/{name}")

    def gain(self, name: str, over: Baseline) -> Estimate | None:
        """Accuracy of a variant above a baseline's at the same retention, on the same clips.

        None where no seed has both, or retention is not bracketed in one.
        """
        frontiers, records = self.seeds(frontier_of(name)), self.variant(name)
        shared = sorted(frontiers.keys() & records.keys())
        gains = [gain_over(over, allocated(records[seed]), frontiers[seed]) for seed in shared]
        return Estimate(gains) if gains and None not in gains else None


def frontier_of(name: str) -> str:
    """The frontier of a variant's world."""
    return "hard_frontier" if name.startswith("hard_") else "frontier"


def point(record: Record, method: str, setting: str) -> Record:
    """The point of a record that a method has at a setting."""
    named = (method, setting)
    return next(p for p in record["points"] if (p["method"], p["setting"]) == named)


def allocated(record: Record) -> Record:
    """What the allocator's mean policy gives, without a budget."""
    return point(record, "resadapt", "free")


def vanilla(record: Record) -> Record:
    return point(record, "vanilla", "scale 1")


def lead(record: Record) -> float:
    """Accuracy of the allocator less that at full size, on the same clips."""
    return allocated(record)["accuracy"] - vanilla(record)["accuracy"]


def retention(record: Record) -> float:
    return allocated(record)["retention"]


def accuracy(record: Record) -> float:
    return allocated(record)["accuracy"]


def gain_over(baseline: Baseline, one: Record, frontier: Record) -> float | None:
    """Accuracy above a baseline's at the same retention."""
    matched = accuracy_at(one["retention"], [p for p in frontier["points"] if baseline(p)])
    return None if matched is None else one["accuracy"] - matched


def fixed_scale(point: Record) -> bool:
    """One scale for all pairs, from the smallest to full size."""
    return point["method"] in ("fixed_scale", "vanilla")


def random_pairs(point: Record) -> bool:
    """Random pairs at full size, from none of them to all."""
    kind = point["setting"].split()[0]
    return point["method"] == "vanilla" or kind in ("frames", "blind")


def over_seeds(records: Mapping[int, Record], value: Callable[[Record], float]) -> Estimate:
    return Estimate([value(record) for record in records.values()])


def paired(
    first: Mapping[int, Record], second: Mapping[int, Record], value: Callable[[Record], float]
) -> Estimate:
    """How much more the first has than the second, seed by seed."""
    shared = sorted(first.keys() & second.keys())
    return Estimate([value(first[seed]) - value(second[seed]) for seed in shared])


class Difference(NamedTuple):
    """What one variant has more than another, seed by seed."""

    accuracy: Estimate
    tokens: Estimate
    clip: float  # the share that one clip is of all

    def signs(self) -> tuple[int, int]:
        """Of accuracy and tokens: 1 and -1 where more and less are shown, in accuracy of a clip."""
        more, less = self.accuracy.beyond(self.clip), self.accuracy.beyond(-self.clip)
        return max(more, 0) + min(less, 0), self.tokens.beyond()

    def shown(self) -> str:
        """What is shown of it, in words; empty if nothing."""
        words = {1: "more accurate", -1: "less accurate"}, {1: "more tokens", -1: "fewer tokens"}
        return ", ".join(word[sign] for word, sign in zip(words, self.signs(), strict=True) if sign)

    def text(self) -> str:
        return f"accuracy {self.accuracy.points()}, tokens {self.tokens.points()}"

    def better(self) -> bool:
        """Shown to be more accurate or cheaper, and not shown to be worse in the other."""
        accuracy, tokens = self.signs()
        return max(accuracy, -tokens) > 0 and min(accuracy, -tokens) >= 0


def difference(results: Results, first: str, second: str) -> Difference | None:
    """None where no seed has both."""
    ours, theirs = results.variant(first), results.variant(second)
    if not ours.keys() & theirs.keys():
        return None
    pairs = (paired(ours, theirs, value) for value in (accuracy, retention))
    return Difference(*pairs, clip=1 / results.size.num_clips)
