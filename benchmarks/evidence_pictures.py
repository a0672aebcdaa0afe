"""The pictures of docs/evidence.md."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from evidence_results import Estimate, Record, Results, allocated, point
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from resadapt_jax.report import frontier

LABELS = {
    "fixed_scale": "FixedScale",
    "resadapt": "ResAdapt",
    "random_drop frames": "random pairs",
    "random_drop tokens": "random tokens, all encoded",
    "oracle": "oracle",
    "vanilla": "full size",
}

MARKS = "os^vD<>PX"  # hollow, so that none hides another


def draw_methods(results: Results, methods: Mapping[str, str], *, world: str = "") -> bytes:
    """Accuracy over retention: a mark for each seed of each method, FixedScale as a line."""
    figure, (axes,) = panels(1)
    records = list(results.seeds(f"{world}frontier").values())
    if records:
        draw_series(axes, records, "fixed_scale", colour="0.3")
    for index, (method, label) in enumerate(methods.items()):
        free = [allocated(record) for record in results.variant(world + method).values()]
        if free:
            places = [p["retention"] for p in free], [p["accuracy"] for p in free]
            mark = {"color": f"C{index}", "marker": MARKS[index]}
            axes.plot(*places, linestyle="", fillstyle="none", markersize=8, label=label, **mark)
    axes.set(xlabel="share of the visual tokens", ylabel="accuracy", xlim=(0, 1.05), ylim=(0, 1.05))
    legend(axes, loc="lower right")
    return png(figure)


def draw_training(results: Results, methods: Mapping[str, str]) -> bytes:
    """What the drawn allocations earned and kept in training, means over seeds."""
    figure, panes = panels(2)
    for index, (method, label) in enumerate(methods.items()):
        curves = [record["training"] for record in results.variant(method).values()]
        if not curves:
            continue
        for axes, name in zip(panes, ("reward", "retention"), strict=True):
            mean = np.mean([curve[name] for curve in curves], axis=0)
            axes.plot(curves[0]["step"], mean, label=label, color=f"C{index}")
    panes[0].set(xlabel="step", ylabel="accuracy of what is drawn", ylim=(0, 1.05))
    panes[1].set(xlabel="step", ylabel="share of the visual tokens drawn", ylim=(0, 1.05))
    legend(panes[1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return png(figure)


def draw_frontier(results: Results, group: str) -> bytes:
    """Every method at every setting: means over seeds with their standard errors."""
    figure, (axes,) = panels(1)
    records = list(results.seeds(group).values())
    for name in LABELS if records else ():
        draw_series(axes, records, name)
    axes.set(xlabel="share of the visual tokens", ylabel="accuracy", xlim=(0, 1.05), ylim=(0, 1.05))
    legend(axes, loc="lower right")
    return png(figure)


def draw_series(
    axes: Axes, records: Sequence[Record], name: str, colour: str | None = None
) -> None:
    """A method's settings, joined where they are of one kind; by default in its own colour."""
    method, _, kind = name.partition(" ")
    settings = [
        p["setting"]
        for p in records[0]["points"]
        if p["method"] == method and p["setting"].startswith(kind)
    ]
    places = []
    for setting in settings:
        some = [point(record, method, setting) for record in records]
        both = [Estimate([p[key] for p in some]) for key in ("retention", "accuracy")]
        places.append(both)
    x, y = zip(*sorted(places, key=lambda place: place[0].mean), strict=True)
    axes.errorbar(
        [one.mean for one in x],
        [one.mean for one in y],
        xerr=[one.stderr for one in x],
        yerr=[one.stderr for one in y],
        fmt="o-",
        markersize=4,
        color=colour or colour_of(name),
        capsize=3,
        label=LABELS[name],
    )


def colour_of(name: str) -> str:
    """As in the picture of a single run."""
    return next(s.colour for s in frontier.SERIES if name in (s.method, f"{s.method} {s.prefix}"))


def draw_longer(results: Results) -> bytes:
    """Accuracy over the number of pairs that share the same tokens."""
    figure, (axes,) = panels(1)
    records = list(results.seeds("longer").values())
    for method in ("fixed_scale", "resadapt") if records else ():
        rows = [[p for p in record["points"] if p["method"] == method] for record in records]
        estimates = [Estimate([p["accuracy"] for p in s]) for s in zip(*rows, strict=True)]
        axes.errorbar(
            [p["pairs"] for p in rows[0]],
            [one.mean for one in estimates],
            yerr=[one.stderr for one in estimates],
            color=colour_of(method),
            marker="o",
            capsize=3,
            label=LABELS[method],
        )
    axes.set(xlabel="pairs sampled, for no more visual tokens", ylabel="accuracy", ylim=(0, 1.05))
    legend(axes)
    return png(figure)


def panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(7.2 * count, 4.6), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1, count))
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(axes: Axes, **options: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, **options)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
