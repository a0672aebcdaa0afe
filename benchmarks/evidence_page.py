"""Builds docs/evidence.md and its pictures from the figures of `evidence_jobs`."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from evidence_jobs import HARD_METHODS, MAIN, STRIDES, Size, result_path
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from resadapt_jax.evaluation.frontier import fixed_scale_at
from resadapt_jax.files import atomic_write

METHODS = {
    "accuracy": "accuracy only",
    "direct_cost": "direct cost",
    "gdpo": "GDPO",
    "cost_outside": "cost outside, no shaping",
    "capo_paper": "CAPO, paper's sign",
    "capo_released": "CAPO, released sign",
}
SIMILARITIES = {"": "none", "+similarity_paper": "paper", "+similarity_released": "released"}
OTHERS = {
    MAIN: "Beta, per pair (the run above)",
    "logistic_normal": "logistic-normal",
    "per_frame": "per frame",
    "joint": "backbone trained too",
}
COLOURS = dict(
    zip(METHODS, ("#8c98aa", "#b0905f", "#7b5ea7", "#2a9d6f", "#2f6db3", "#d1372f"), strict=True)
)


class Estimate(NamedTuple):
    """A mean over seeds with its standard error, s / √n; 0 of a single seed."""

    mean: float
    stderr: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        values = np.asarray(values, float)
        spread = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
        return cls(float(values.mean()), float(spread))

    def percent(self) -> str:
        return f"{100 * self.mean:.1f} ± {100 * self.stderr:.1f} %"

    def plain(self) -> str:
        return f"{self.mean:.3f} ± {self.stderr:.3f}"


class Results:
    """What there is of the figures, by job."""

    def __init__(self, folder: Path, size: Size):
        self._folder, self.size = folder, size

    def seeds(self, group: str) -> list[dict[str, Any]]:
        """The records of a group's seeds, as many as are done."""
        paths = (result_path(self._folder, f"{group}/{seed}") for seed in self.size.seeds)
        return [json.loads(path.read_text()) for path in paths if path.exists()]

    def variant(self, name: str) -> list[dict[str, Any]]:
        return self.seeds(f"variant/{name}")


def point(record: Mapping[str, Any], method: str, setting: str) -> dict[str, Any]:
    """The point of a record that a method has at a setting."""
    named = (method, setting)
    return next(p for p in record["points"] if (p["method"], p["setting"]) == named)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def variant_row(
    label: str, records: Sequence[dict[str, Any]], fixed: Sequence[dict[str, Any]]
) -> list[str]:
    """Accuracy, retention, gain over FixedScale there, and where the pixels went."""
    if not records:
        return [label, *["not run"] * 7]
    free = [point(record, "resadapt", "free") for record in records]
    gains = [gain(one, fixed) for one in free]
    where = [record["selectivity"] for record in records]

    def estimate(get: Callable[[dict[str, Any]], float], rows: Sequence[dict[str, Any]]):
        return Estimate.of([get(row) for row in rows])

    answers = [one["answers"] for one in where]
    changed = (f"{np.mean([one[name] for one in answers]):.0f}" for name in ("lost", "gained"))
    return [
        label,
        estimate(lambda p: p["accuracy"], free).percent(),
        estimate(lambda p: p["retention"], free).percent(),
        Estimate.of(gains).percent() if None not in gains else "not bracketed",
        estimate(lambda w: w["spread"], where).plain(),
        estimate(lambda w: w["gini"], where).plain(),
        estimate(lambda w: w["hit_rate"], where).percent(),
        " / ".join(changed),
    ]


VARIANT_HEADER = (
    "",
    "accuracy",
    "tokens kept",
    "over FixedScale",
    "spread",
    "Gini",
    "hits",
    "lost / gained",
)


def gain(one: Mapping[str, Any], fixed: Sequence[dict[str, Any]]) -> float | None:
    """Accuracy above that of FixedScale at the same retention."""
    matched = fixed_scale_at(one["retention"], fixed)
    return None if matched is None else one["accuracy"] - matched


def fixed_points(frontiers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """FixedScale does not depend on a seed; with what it gives at full size."""
    if not frontiers:
        return []
    points = [p for p in frontiers[0]["points"] if p["method"] in ("fixed_scale", "vanilla")]
    return [p | {"method": "fixed_scale"} for p in points]


def write_page(folder: Path, page: Path, size: Size) -> Path:
    """Writes ``evidence.md`` and its pictures from what there is."""
    results = Results(folder, size)
    pictures = {
        "evidence_methods.png": draw_methods(results),
        "evidence_longer.png": draw_longer(results),
    }
    for name, picture in pictures.items():
        atomic_write(page / name, picture)
    sections = [methods_section(results), others_section(results), hard_section(results)]
    sections += [longer_section(results), transfer_section(results)]
    path = page / "evidence.md"
    atomic_write(path, "\n\n".join(["# Evidence", *sections]) + "\n")
    return path


def methods_section(results: Results) -> str:
    fixed = fixed_points(results.seeds("frontier"))
    parts = ["## Methods", "![accuracy over retention by method](evidence_methods.png)"]
    for suffix, label in SIMILARITIES.items():
        rows = [
            variant_row(name, results.variant(method + suffix), fixed)
            for method, name in METHODS.items()
        ]
        parts += [f"Similarity term: {label}.", table(VARIANT_HEADER, rows)]
    return "\n\n".join(parts)


def others_section(results: Results) -> str:
    fixed = fixed_points(results.seeds("frontier"))
    rows = [variant_row(label, results.variant(name), fixed) for name, label in OTHERS.items()]
    return "\n\n".join(["## Policies, units, joint training", table(VARIANT_HEADER, rows)])


def hard_section(results: Results) -> str:
    fixed = fixed_points(results.seeds("hard_frontier"))
    rows = [
        variant_row(METHODS[name], results.variant(f"hard_{name}"), fixed) for name in HARD_METHODS
    ]
    return "\n\n".join(["## A harder world", table(VARIANT_HEADER, rows)])


def longer_section(results: Results) -> str:
    records = results.seeds("longer")
    rows = []
    for stride in STRIDES:
        found = [[p for p in r["points"] if p["setting"] == f"every {stride}"] for r in records]
        if not found:
            continue
        cells = [f"{found[0][0]['pairs']}", f"{100 * found[0][0]['evidence_shown']:.0f} %"]
        for method in ("fixed_scale", "resadapt"):
            mine = [next(p for p in points if p["method"] == method) for points in found]
            cells.append(Estimate.of([p["accuracy"] for p in mine]).percent())
            cells.append(f"{np.mean([p['tokens'] for p in mine]):.0f}")
        rows.append(cells)
    header = ("pairs", "evidence sampled", "FixedScale", "tokens", "ResAdapt", "tokens")
    parts = ["## More frames for the same tokens", table(header, rows)]
    return "\n\n".join([*parts, "![accuracy over frames](evidence_longer.png)"])


def transfer_section(results: Results) -> str:
    records = results.seeds("transfer")
    rows = []
    for method, setting, label in (
        ("vanilla", "scale 1", "full resolution"),
        ("resadapt", "free", "ResAdapt"),
        ("control", "other_query", "allocated for another question"),
    ):
        mine = [point(record, method, setting) for record in records]
        if mine:
            columns = ([p["accuracy"] for p in mine], [p["retention"] for p in mine])
            rows.append([label, *(Estimate.of(column).percent() for column in columns)])
    return "\n\n".join(["## Another backbone", table(("", "accuracy", "tokens kept"), rows)])


def draw_methods(results: Results) -> bytes:
    """Accuracy over retention: a mark for each seed of each method, FixedScale as a line."""
    figure, (axes,) = panels(1)
    fixed = sorted((p["retention"], p["accuracy"]) for p in fixed_points(results.seeds("frontier")))
    if fixed:
        axes.plot(
            *zip(*fixed, strict=True), "-o", color="#b9c0cb", markersize=4, label="FixedScale"
        )
    for method, label in METHODS.items():
        free = [point(record, "resadapt", "free") for record in results.variant(method)]
        if free:
            places = [p["retention"] for p in free], [p["accuracy"] for p in free]
            axes.plot(*places, "o", color=COLOURS[method], markersize=8, label=label)
    axes.set(xlabel="share of the visual tokens", ylabel="accuracy", xlim=(0, 1.05), ylim=(0, 1.05))
    axes.legend(frameon=False, loc="lower right")
    return png(figure)


def draw_longer(results: Results) -> bytes:
    """Accuracy over the number of pairs that share the same tokens."""
    figure, (axes,) = panels(1)
    records = results.seeds("longer")
    for method, colour in (("fixed_scale", "#2f6db3"), ("resadapt", "#d1372f")):
        mine = [[p for p in record["points"] if p["method"] == method] for record in records]
        if mine:
            estimates = [
                Estimate.of([p["accuracy"] for p in some]) for some in zip(*mine, strict=True)
            ]
            axes.errorbar(
                [p["pairs"] for p in mine[0]],
                [one.mean for one in estimates],
                yerr=[one.stderr for one in estimates],
                color=colour,
                marker="o",
                capsize=3,
                label=method,
            )
    axes.set(xlabel="pairs sampled, at the same visual tokens", ylabel="accuracy", ylim=(0, 1.05))
    axes.legend(frameon=False)
    return png(figure)


def panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(7.2 * count, 4.6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1, count))
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
