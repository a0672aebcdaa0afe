"""Reads the figures that `evidence_jobs` wrote, and compares them over seeds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from evidence_jobs import jobs, read_figures
from evidence_runs import Size
from scipy import stats

from resadapt_jax.evaluation.frontier import fixed_scale_at

Record = Mapping[str, Any]
LEVEL = 0.95
ROUNDING = 1e-9  # no difference


class Estimate(NamedTuple):
    """A mean over seeds with its standard error, s / √n; 0 of a single seed."""

    mean: float
    stderr: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        values = np.asarray(values, float)
        spread = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
        return cls(float(values.mean()), float(spread), len(values))

    def beyond(self, bound: float = 0.0) -> int:
        """1 above the bound, -1 below; 0 where the interval of Student's t at `LEVEL` has it.

        A single seed shows nothing.
        """
        if self.count < 2:
            return 0
        reach = stats.t.ppf((1 + LEVEL) / 2, self.count - 1) * self.stderr
        excess = self.mean - bound
        return int(np.sign(excess)) if abs(excess) > reach + ROUNDING else 0

    def percent(self) -> str:
        return self._written(100, ".1f", " %")

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
        return f"{factor * self.mean:{form}}{error}{unit}"


class Results:
    """What there is of the figures, by job; those of another config are left out."""

    def __init__(self, folder: Path, size: Size):
        self._folder, self.size, self._known = folder, size, jobs(size)

    def job(self, name: str) -> Record | None:
        return read_figures(self._folder, self._known, name)

    def seeds(self, group: str) -> dict[int, Record]:
        """The records of a group by seed, as many as are done."""
        found = {seed: self.job(f"{group}/{seed}") for seed in self.size.seeds}
        return {seed: record for seed, record in found.items() if record is not None}

    def variant(self, name: str) -> dict[int, Record]:
        return self.seeds(f"variant/{name}")

    def over_fixed_scale(self, name: str) -> Estimate | None:
        """Accuracy of a variant above FixedScale's at the same retention, on the same clips.

        None where no seed has both, or retention is not bracketed in one.
        """
        world = "hard_" if name.startswith("hard_") else ""
        frontiers, records = self.seeds(f"{world}frontier"), self.variant(name)
        shared = sorted(frontiers.keys() & records.keys())
        gains = [over_fixed_scale(allocated(records[seed]), frontiers[seed]) for seed in shared]
        return Estimate.of(gains) if gains and None not in gains else None


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


def over_fixed_scale(one: Record, frontier: Record) -> float | None:
    """Accuracy above FixedScale's at the same retention, full size being one of its points."""
    fixed = [p for p in frontier["points"] if p["method"] in ("fixed_scale", "vanilla")]
    matched = fixed_scale_at(one["retention"], [p | {"method": "fixed_scale"} for p in fixed])
    return None if matched is None else one["accuracy"] - matched


def over_seeds(records: Mapping[int, Record], value: Callable[[Record], float]) -> Estimate:
    return Estimate.of([value(record) for record in records.values()])


def paired(
    first: Mapping[int, Record], second: Mapping[int, Record], value: Callable[[Record], float]
) -> Estimate:
    """How much more the first has than the second, seed by seed."""
    shared = sorted(first.keys() & second.keys())
    return Estimate.of([value(first[seed]) - value(second[seed]) for seed in shared])
