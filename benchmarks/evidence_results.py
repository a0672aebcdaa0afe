"""Reads the figures that `evidence_jobs` wrote, and compares them over seeds."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from evidence_jobs import Size, result_path
from scipy import stats

from resadapt_jax.evaluation.frontier import fixed_scale_at

Record = Mapping[str, Any]
LEVEL = 0.95


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

    @property
    def sign(self) -> int:
        """Of the mean where its interval (Student's t, `LEVEL`) leaves out 0; else 0."""
        if self.count < 2:
            return 0
        reach = stats.t.ppf((1 + LEVEL) / 2, self.count - 1) * self.stderr
        return int(np.sign(self.mean)) if abs(self.mean) > reach else 0

    def percent(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.stderr:.1f} %"

    def points(self) -> str:
        """A difference of two shares."""
        return f"{100 * self.mean:+.1f} ± {100 * self.stderr:.1f} points"

    def plain(self) -> str:
        return f"{self.mean:.3f} ± {self.stderr:.3f}"


class Results:
    """What there is of the figures, by job."""

    def __init__(self, folder: Path, size: Size):
        self._folder, self.size = folder, size

    def job(self, name: str) -> Record | None:
        path = result_path(self._folder, name)
        return json.loads(path.read_text()) if path.exists() else None

    def seeds(self, group: str) -> dict[int, Record]:
        """The records of a group by seed, as many as are done."""
        found = {seed: self.job(f"{group}/{seed}") for seed in self.size.seeds}
        return {seed: record for seed, record in found.items() if record is not None}

    def variant(self, name: str) -> dict[int, Record]:
        return self.seeds(f"variant/{name}")

    def fixed_scale(self, world: str = "") -> list[Record]:
        """FixedScale, full size included; it does not depend on a seed. ``hard_`` for that world.

        None if no seed is done.
        """
        for record in self.seeds(f"{world}frontier").values():
            points = [p for p in record["points"] if p["method"] in ("fixed_scale", "vanilla")]
            return [p | {"method": "fixed_scale"} for p in points]
        return []


def point(record: Record, method: str, setting: str) -> Record:
    """The point of a record that a method has at a setting."""
    named = (method, setting)
    return next(p for p in record["points"] if (p["method"], p["setting"]) == named)


def allocated(record: Record) -> Record:
    """What the allocator's mean policy gives, without a budget."""
    return point(record, "resadapt", "free")


def vanilla(record: Record) -> Record:
    return point(record, "vanilla", "scale 1")


def over_fixed_scale(one: Record, fixed: Sequence[Record]) -> float | None:
    """Accuracy above that of FixedScale at the same retention."""
    matched = fixed_scale_at(one["retention"], fixed)
    return None if matched is None else one["accuracy"] - matched


def over_vanilla(records: Mapping[int, Record]) -> Estimate:
    """Accuracy of the allocator above that at full size, on the same clips."""
    pairs = [(allocated(r)["accuracy"], vanilla(r)["accuracy"]) for r in records.values()]
    return Estimate.of([mine - full for mine, full in pairs])


def paired(
    first: Mapping[int, Record], second: Mapping[int, Record], value: Callable[[Record], float]
) -> Estimate:
    """How much more the first has than the second, seed by seed."""
    shared = sorted(first.keys() & second.keys())
    return Estimate.of([value(first[seed]) - value(second[seed]) for seed in shared])
