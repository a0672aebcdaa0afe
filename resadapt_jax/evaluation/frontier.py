"""From tallies to ``frontier.json``: points, the gain at matched retention, controls."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resadapt_jax.data.toy_questions import PROBLEM_TYPES
from resadapt_jax.data.toy_signs import DIGITS, LETTERS
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.evaluation.evaluator import Tally
from resadapt_jax.evaluation.methods import MethodSetting

MAX_RETENTION = 0.25
"""ResAdapt is judged by its best point that keeps at most this share of the tokens."""


@dataclass(frozen=True, kw_only=True)
class MatchedGain:
    """A ResAdapt point beside FixedScale at the same retention.

    Attributes:
        point: the ResAdapt point judged; None if none is cheap enough.
        fixed_accuracy: of FixedScale there; None where it is not bracketed.
        reason: why there is no figure; empty if there is one.
    """

    point: dict[str, Any] | None
    fixed_accuracy: float | None
    reason: str = ""

    @property
    def gain(self) -> float | None:
        """Accuracy of ResAdapt less that of FixedScale."""
        if self.point is None or self.fixed_accuracy is None:
            return None
        return self.point["accuracy"] - self.fixed_accuracy


def point_of(setting: MethodSetting, tally: Tally) -> dict[str, Any]:
    """A point of ``frontier.json``.

    ``encoded`` is the tower's share, ``cache_bytes`` the most that a batch's keys and values took,
    and ``tasks`` splits accuracy. ``clips`` are those whose answers were graded.
    """
    tasks = {task: tally.of_task(task) for task in PROBLEM_TYPES}
    return {
        "method": setting.method,
        "setting": setting.name,
        "retention": tally.retention,
        "encoded": tally.encoded_share,
        "cache_bytes": tally.cache_bytes,
        "accuracy": tally.accuracy,
        "stderr": tally.stderr,
        "clips": len(tally.graded),
        "tasks": {
            task: {"accuracy": sum(scores) / len(scores), "clips": len(scores)}
            for task, scores in tasks.items()
            if scores
        },
    }


def fixed_scale_at(retention: float, points: Sequence[dict[str, Any]]) -> float | None:
    """`accuracy_at` of the points of FixedScale."""
    return accuracy_at(retention, [point for point in points if point["method"] == "fixed_scale"])


def accuracy_at(retention: float, points: Sequence[dict[str, Any]]) -> float | None:
    """Accuracy of one method at ``retention``: linear between the two points that bracket it.

    None where none do; a frontier is never extrapolated.
    """
    places = sorted((point["retention"], point["accuracy"]) for point in points)
    below = [place for place in places if place[0] <= retention]
    above = [place for place in places if place[0] >= retention]
    if not below or not above:
        return None
    (left, low), (right, high) = below[-1], above[0]
    share = (retention - left) / (right - left) if right > left else 0.0
    return low + share * (high - low)


def gain_at_matched_retention(points: Sequence[dict[str, Any]]) -> MatchedGain:
    """Judges the most accurate ResAdapt point at no more than `MAX_RETENTION`, the cheaper of two.

    The ablation is FixedScale at the very retention that was realised, which must be bracketed.
    """
    eligible = [
        point
        for point in points
        if point["method"] == "resadapt" and point["retention"] <= MAX_RETENTION
    ]
    if not eligible:
        return MatchedGain(
            point=None,
            fixed_accuracy=None,
            reason=f"no resadapt point keeps {MAX_RETENTION:.0%} of the tokens or less",
        )
    best = max(eligible, key=lambda point: (point["accuracy"], -point["retention"]))
    fixed = fixed_scale_at(best["retention"], points)
    reason = f"no two fixed_scale points bracket a retention of {best['retention']:.3f}"
    return MatchedGain(point=best, fixed_accuracy=fixed, reason=reason if fixed is None else "")


def chance_of(tasks: Sequence[str], world: ToyWorldConfig) -> dict[str, Any]:
    """Accuracy of a uniform guess among a task's answers: over all clips, and per task.

    An answer that is not right scores nothing.
    """
    answers = {
        "which": len(LETTERS),
        "how_many": len(DIGITS),
        "when": world.clock_seconds,
        "both": len(LETTERS) ** 2,
    }
    counts = Counter(tasks)
    expected = sum(count / answers[task] for task, count in counts.items()) / len(tasks)
    return {"accuracy": expected, "tasks": {task: 1 / answers[task] for task in counts}}


def frontier_record(
    settings: Sequence[MethodSetting], tallies: Sequence[Tally], world: ToyWorldConfig
) -> dict[str, Any]:
    """``points``, ``gain_at_matched_retention`` (null if there is none) and ``controls``.

    The controls are those evaluated, ``free`` to hold them against, ``chance``, and what the gain
    is made of (``best_resadapt``).
    """
    rows = [point_of(*pair) for pair in zip(settings, tallies, strict=True)]
    points = [row for row in rows if row["method"] != "control"]
    matched = gain_at_matched_retention(points)
    controls = {
        row["setting"]: _control(row, points)
        for row in rows
        if row["method"] == "control" or row["setting"] == "free"
    }
    controls["chance"] = chance_of(tallies[0].tasks, world)
    controls["best_resadapt"] = _best(matched, points)
    return {
        "points": points,
        "gain_at_matched_retention": matched.gain,
        "controls": controls,
    }


def _control(row: dict[str, Any], points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    figures = {key: value for key, value in row.items() if key not in ("method", "setting")}
    fixed = fixed_scale_at(row["retention"], points)
    return figures | {"gain": None if fixed is None else row["accuracy"] - fixed}


def _best(matched: MatchedGain, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if matched.point is None:
        return {"reason": matched.reason}
    vanilla = next(point["accuracy"] for point in points if point["method"] == "vanilla")
    figures = {key: matched.point[key] for key in ("setting", "retention", "accuracy", "stderr")}
    figures["share_of_vanilla"] = matched.point["accuracy"] / vanilla if vanilla > 0 else None
    figures["fixed_scale_accuracy"] = matched.fixed_accuracy
    return figures | ({"reason": matched.reason} if matched.reason else {})
