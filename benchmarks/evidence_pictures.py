"""The pictures of docs/evidence.md."""

import io
from collections.abc import Sequence

import numpy as np
from evidence_results import Estimate, Results, allocated
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FIXED_COLOUR, RESADAPT_COLOUR = "#2f6db3", "#d1372f"
FRONTIER = {
    "fixed_scale": ("FixedScale", FIXED_COLOUR),
    "resadapt": ("ResAdapt", RESADAPT_COLOUR),
    "random_drop": ("random drop", "#8c98aa"),
    "oracle": ("oracle", "#2a9d6f"),
    "vanilla": ("full size", "#20242c"),
}


def draw_methods(results: Results, methods: dict[str, str], *, hard: bool = False) -> bytes:
    """Accuracy over retention: a mark for each seed of each method, FixedScale as a line."""
    figure, (axes,) = panels(1)
    world = "hard_" if hard else ""
    fixed = sorted((p["retention"], p["accuracy"]) for p in results.fixed_scale(world))
    if fixed:
        line = {"color": "#b9c0cb", "markersize": 4, "label": "FixedScale"}
        axes.plot(*zip(*fixed, strict=True), "-o", **line)
    for index, (method, label) in enumerate(methods.items()):
        free = [allocated(record) for record in results.variant(world + method).values()]
        if free:
            places = [p["retention"] for p in free], [p["accuracy"] for p in free]
            axes.plot(*places, "o", color=f"C{index}", markersize=8, alpha=0.8, label=label)
    axes.set(xlabel="share of the visual tokens", ylabel="accuracy", xlim=(0, 1.05), ylim=(0, 1.05))
    legend(axes, loc="lower right")
    return png(figure)


def draw_training(results: Results, methods: dict[str, str]) -> bytes:
    """What the drawn allocations earned and kept while the first seeds were trained."""
    figure, panes = panels(2)
    for index, (method, label) in enumerate(methods.items()):
        curves = [record["training"] for record in results.variant(method).values()]
        if not curves:
            continue
        for axes, name in zip(panes, ("reward", "retention"), strict=True):
            mean = np.mean([curve[name] for curve in curves], axis=0)
            axes.plot(curves[0]["step"], mean, color=f"C{index}", label=label)
    panes[0].set(xlabel="step", ylabel="accuracy of what is drawn", ylim=(0, 1.05))
    panes[1].set(xlabel="step", ylabel="share of the visual tokens drawn", ylim=(0, 1.05))
    legend(panes[1])
    return png(figure)


def draw_frontier(results: Results, group: str) -> bytes:
    """Every method at every setting: means over seeds with their standard errors."""
    figure, (axes,) = panels(1)
    records = list(results.seeds(group).values())
    for method, (label, colour) in FRONTIER.items() if records else ():
        rows = [[p for p in record["points"] if p["method"] == method] for record in records]
        some = list(zip(*rows, strict=True))
        x = [Estimate.of([p["retention"] for p in seeds]) for seeds in some]
        y = [Estimate.of([p["accuracy"] for p in seeds]) for seeds in some]
        order = np.argsort([one.mean for one in x])
        joined = "-" if method in ("fixed_scale", "resadapt") else ""
        axes.errorbar(
            [x[i].mean for i in order],
            [y[i].mean for i in order],
            xerr=[x[i].stderr for i in order],
            yerr=[y[i].stderr for i in order],
            fmt=f"o{joined}",
            color=colour,
            capsize=3,
            label=label,
        )
    axes.set(xlabel="share of the visual tokens", ylabel="accuracy", xlim=(0, 1.05), ylim=(0, 1.05))
    legend(axes, loc="lower right")
    return png(figure)


def draw_longer(results: Results) -> bytes:
    """Accuracy over the number of pairs that share the same tokens."""
    figure, (axes,) = panels(1)
    records = list(results.seeds("longer").values())
    for method in ("fixed_scale", "resadapt") if records else ():
        label, colour = FRONTIER[method]
        rows = [[p for p in record["points"] if p["method"] == method] for record in records]
        estimates = [Estimate.of([p["accuracy"] for p in s]) for s in zip(*rows, strict=True)]
        axes.errorbar(
            [p["pairs"] for p in rows[0]],
            [one.mean for one in estimates],
            yerr=[one.stderr for one in estimates],
            color=colour,
            marker="o",
            capsize=3,
            label=label,
        )
    axes.set(xlabel="pairs sampled, at the same visual tokens", ylabel="accuracy", ylim=(0, 1.05))
    legend(axes)
    return png(figure)


def panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(7.2 * count, 4.6), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1, count))
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(axes: Axes, **options: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, **options)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
