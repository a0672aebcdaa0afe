"""The frontier of accuracy over retention, as a picture and as a table, from ``frontier.json``."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

INK, FAINT, GRID, RESADAPT = "#20242b", "#7b8494", "#e6e9ee", "#d1372f"
LABEL_GAP = 15  # points between the lines of labels that would overlap


class Series(NamedTuple):
    """How a family of points is drawn, and which of them, by retention, bears the label."""

    method: str
    prefix: str  # of the settings that belong to it
    label: str
    colour: str
    marker: str
    size: float
    line: str = "none"
    labelled: int = -1
    on_left: bool = False
    above: bool = False


SERIES = (
    Series("random_drop", "tokens", "random tokens", "#8c98aa", "v", 6.5, ":"),
    Series("random_drop", "frames", "random pairs", "#b0905f", "s", 5.5, ":"),
    Series("fixed_scale", "", "FixedScale", "#2f6db3", "o", 6.5, "-"),
    Series("resadapt", "budget", "ResAdapt, budgets", RESADAPT, "D", 6.5, "-", -2, on_left=True),
    Series("resadapt", "free", "ResAdapt, free", RESADAPT, "P", 12, above=True),
    Series("oracle", "", "oracle", "#2a9d6f", "*", 16, on_left=True),
    Series("vanilla", "", "vanilla", INK, "h", 9),
)


class _Label(NamedTuple):
    """Text beside a point of the data, right of it unless said otherwise."""

    text: str
    retention: float
    accuracy: float
    colour: str
    on_left: bool = False
    above: bool = False


def frontier_png(record: dict[str, Any]) -> bytes:
    """Accuracy over retention, every method with its standard error, chance and the gain."""
    figure = Figure(figsize=(9.6, 6.2), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 0.11, 0.885, 0.755))
    points = record["points"]
    _frame(axes, points)
    labels = [label for series in SERIES for label in _draw_series(axes, series, points)]
    labels += _draw_controls(axes, record["controls"])
    labels += _draw_gain(axes, record)
    _draw_chance(axes, record["controls"])
    _place_labels(axes, labels)
    _title(figure, record)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _frame(axes: Axes, points: Sequence[dict[str, Any]]) -> None:
    """A logarithmic axis of retention: what matters happens below a quarter."""
    lowest = min(point["retention"] for point in points)
    axes.set_xscale("log")
    axes.set_xlim(lowest / 1.25, 1.6 * max(point["retention"] for point in points))
    axes.set_ylim(0, 1.1)
    ticks = [0.03125, 0.0625, 0.125, 0.25, 0.5, 1.0]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick > lowest / 1.25]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.3g} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    axes.grid(color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, length=0, labelsize=11)
    axes.set_xlabel("visual tokens entering the language model, share of all", color=INK, size=11)
    axes.set_ylabel("accuracy", color=INK, size=11)


def _draw_series(axes: Axes, series: Series, points: Sequence[dict[str, Any]]) -> list[_Label]:
    mine = [
        point
        for point in points
        if point["method"] == series.method and point["setting"].startswith(series.prefix)
    ]
    if not mine:
        return []
    mine.sort(key=lambda point: point["retention"])
    axes.errorbar(
        [point["retention"] for point in mine],
        [point["accuracy"] for point in mine],
        yerr=[point["stderr"] for point in mine],
        color=series.colour,
        marker=series.marker,
        markersize=series.size,
        markeredgecolor="white",
        markeredgewidth=0.8,
        linestyle=series.line,
        linewidth=1.8,
        elinewidth=1.2,
        capsize=2.5,
        zorder=3,
    )
    at = mine[max(series.labelled, -len(mine))]
    place = at["retention"], at["accuracy"]
    return [_Label(series.label, *place, series.colour, series.on_left, series.above)]


def _draw_controls(axes: Axes, controls: dict[str, Any]) -> list[_Label]:
    other = controls.get("other_query")
    if other is None:
        return []
    at = other["retention"], other["accuracy"]
    axes.errorbar(*at, yerr=other["stderr"], fmt="none", ecolor=RESADAPT, elinewidth=1.2)
    cross = {"markersize": 11, "markerfacecolor": "white", "markeredgewidth": 1.8}
    axes.plot(*at, "X", markeredgecolor=RESADAPT, zorder=4, **cross)
    text = "ResAdapt, for another query"
    return [_Label(text, *at, RESADAPT, on_left=True, above=True)]


def _draw_gain(axes: Axes, record: dict[str, Any]) -> list[_Label]:
    """An arrow from FixedScale to ResAdapt at the retention where they are compared."""
    gain, best = record["gain_at_matched_retention"], record["controls"].get("best_resadapt", {})
    if gain is None:
        return []
    x, top, bottom = best["retention"], best["accuracy"], best["fixed_scale_accuracy"]
    axes.annotate(
        "",
        xy=(x, top),
        xytext=(x, bottom),
        arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.3, "shrinkB": 7},
        zorder=2,
    )
    text = f"{100 * gain:+.1f} points"
    return [_Label(text, x, bottom + 0.45 * (top - bottom), INK)]


def _draw_chance(axes: Axes, controls: dict[str, Any]) -> None:
    chance, blind = controls.get("chance"), controls.get("blind")
    if chance is None:
        return
    axes.axhline(chance["accuracy"], color=FAINT, linewidth=1.2, linestyle=(0, (5, 4)), zorder=1)
    text = f"chance {100 * chance['accuracy']:.1f} %"
    if blind is not None:
        text += f"   ·   without the video {100 * blind['accuracy']:.1f} %"
    axes.annotate(
        text,
        (0.995, chance["accuracy"]),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, -5),
        textcoords="offset points",
        ha="right",
        va="top",
        color=FAINT,
        size=10,
    )


def _place_labels(axes: Axes, labels: Sequence[_Label]) -> None:
    """Writes every label beside its point, pushed down as far as those above it demand."""
    places = axes.transData.transform([(label.retention, label.accuracy) for label in labels])
    point = axes.figure.dpi / 72
    taken: list[tuple[float, float, float]] = []
    for i in sorted(range(len(labels)), key=lambda i: -places[i][1]):
        label, (x, y) = labels[i], places[i]
        width = 6.2 * len(label.text) * point
        left = x - width - 12 * point if label.on_left else x + 12 * point
        if label.above:
            left += (18 if label.on_left else -18) * point
            y += LABEL_GAP * point
        for start, end, height in taken:
            if start < left + width and left < end and y > height - LABEL_GAP * point:
                y = height - LABEL_GAP * point
        taken.append((left, left + width, y))
        axes.annotate(
            label.text,
            (left + width if label.on_left else left, y),
            xycoords="figure pixels",
            ha="right" if label.on_left else "left",
            va="center",
            color=label.colour,
            size=11,
            weight="bold",
            zorder=5,
        ).set_path_effects([effects.withStroke(linewidth=3, foreground="white")])


def _title(figure: Figure, record: dict[str, Any]) -> None:
    points = record["points"]
    best = record["controls"].get("best_resadapt", {})
    figure.text(0.02, 0.945, "Accuracy over retention", size=15, weight="bold", color=INK)
    subtitle = f"{points[0]['clips']} held-out clips, bars are one standard error"
    if best.get("share_of_vanilla") is not None:
        subtitle += (
            f"; ResAdapt keeps {100 * best['share_of_vanilla']:.1f} % of vanilla's accuracy "
            f"at {100 * best['retention']:.1f} % of its tokens"
        )
    figure.text(0.02, 0.905, subtitle, size=10.5, color=FAINT)


def frontier_table(record: dict[str, Any]) -> str:
    """The same as plain text: a row per point and control, and the gain below."""
    controls = record["controls"]
    tasks = list(controls["chance"]["tasks"])
    header = ["method", "setting", "retention", "encoded", "accuracy", *tasks]
    rows = [_row(point["method"], point["setting"], point, tasks) for point in record["points"]]
    extra = [
        _row("control", name.replace("_", " "), controls[name], tasks)
        for name in ("other_query", "blind")
        if name in controls
    ]
    chance = ["chance", "", "", "", _percent(controls["chance"]["accuracy"]) + " " * 6]
    extra.append(chance + [_percent(controls["chance"]["tasks"][task]) for task in tasks])
    widths = [max(map(len, column)) for column in zip(header, *rows, *extra, strict=True)]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    body = [_aligned(header, widths), rule]
    previous = rows[0][0]
    for row in rows:
        body += [""] if row[0] != previous else []
        previous = row[0]
        body.append(_aligned(row, widths))
    body += [rule, *(_aligned(row, widths) for row in extra), "", _verdict(record)]
    return "\n".join(body)


def _row(method: str, setting: str, figures: dict[str, Any], tasks: Sequence[str]) -> list[str]:
    accuracy = f"{_percent(figures['accuracy'])} ± {100 * figures['stderr']:3.1f}"
    by_task = [figures["tasks"].get(task, {}).get("accuracy") for task in tasks]
    shown = ["" if value is None else _percent(value) for value in by_task]
    costs = [_percent(figures["retention"]), _percent(figures["encoded"])]
    return [method, setting, *costs, accuracy, *shown]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names to the left, figures to the right."""
    pairs = list(zip(cells, widths, strict=True))
    names = [cell.ljust(width) for cell, width in pairs[:2]]
    return "  ".join(names + [cell.rjust(width) for cell, width in pairs[2:]]).rstrip()


def _verdict(record: dict[str, Any]) -> str:
    best, gain = record["controls"]["best_resadapt"], record["gain_at_matched_retention"]
    lines = [
        "percent; retention: tokens entering the language model, encoded: tokens the tower made;",
        "± is one standard error",
    ]
    if "setting" in best and best["share_of_vanilla"] is not None:
        lines.append(
            f"best ResAdapt point at 25 % retention or less: {best['setting']}, "
            f"{_percent(best['accuracy'])} % at {_percent(best['retention'])} % of the tokens, "
            f"{_percent(best['share_of_vanilla'])} % of vanilla's accuracy"
        )
    if gain is None:
        lines.append(f"gain at matched retention: none, {best['reason']}")
    else:
        lines.append(
            f"gain at matched retention: {100 * gain:+.1f} points over FixedScale's "
            f"{_percent(best['fixed_scale_accuracy'])} %"
        )
    return "\n".join(lines)
