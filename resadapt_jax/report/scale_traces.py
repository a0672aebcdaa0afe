"""Scales over time for a few clips, above the frames they belong to, with the evidence marked."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from resadapt_jax.typing import Bool, Float, UInt8

INK, FAINT, GRID = "#20242b", "#7b8494", "#e6e9ee"
SCALE, EVIDENCE, RIGHT, WRONG = "#d1372f", "#ffd27a", "#2a9d6f", "#d1372f"
COLUMNS, MAX_PICTURES = 2, 12
WIDTH, TRACE_HEIGHT = 7.4, 1.35  # inches of one clip
LEFT, TOP, BOTTOM = 0.62, 0.8, 0.34  # inches around it
HEADER = 0.4  # inches for the legend


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaleTrace:
    """One clip as the allocator treated it.

    Attributes:
        pictures: a frame of each pair.
        seconds: mean time of each pair.
        scales: linear scale of each pair.
        evidence: pairs that show the answer.
        written, truth: the answer given and the one wanted.
        score: accuracy of the answer given, in [0, 1].
        retention: share of the clip's tokens that were kept.
    """

    question: str
    written: str
    truth: str
    score: float
    retention: float
    pictures: UInt8[np.ndarray, "K height width 3"]
    seconds: Float[np.ndarray, " K"]
    scales: Float[np.ndarray, " K"]
    evidence: Bool[np.ndarray, " K"]


def scale_traces_png(traces: Sequence[ScaleTrace], *, s_max: float) -> bytes:
    """A panel per clip, two in a row: the scale of every pair above its frame, on one axis."""
    rows = -(-len(traces) // COLUMNS)
    picture = (WIDTH - LEFT) / min(len(traces[0].scales), MAX_PICTURES)  # square, in inches
    panel = TOP + TRACE_HEIGHT + picture + BOTTOM
    size = (COLUMNS * WIDTH + 0.3, HEADER + rows * panel)
    figure = Figure(figsize=size, dpi=120, facecolor="white")
    FigureCanvasAgg(figure)

    def axes_at(left: float, top: float, width: float, height: float) -> Axes:
        """Inches from the top left corner."""
        box = (left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1])
        return figure.add_axes(box)

    for i, trace in enumerate(traces):
        row, column = divmod(i, COLUMNS)
        left, top = column * WIDTH + LEFT, HEADER + row * panel + TOP
        width = WIDTH - LEFT - 0.1
        _draw_trace(axes_at(left, top, width, TRACE_HEIGHT), trace, s_max)
        _draw_pictures(axes_at(left, top + TRACE_HEIGHT + 0.04, width, picture), trace)
    _legend(figure, size)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _edges(seconds: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K1"]:
    """Bounds of the pairs, half way between their times."""
    step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0
    inner = (seconds[1:] + seconds[:-1]) / 2
    return np.concatenate([[seconds[0] - step / 2], inner, [seconds[-1] + step / 2]])


def _draw_trace(axes: Axes, trace: ScaleTrace, s_max: float) -> None:
    edges = _edges(trace.seconds)
    for k in np.flatnonzero(trace.evidence):
        axes.axvspan(edges[k], edges[k + 1], color=EVIDENCE, alpha=0.55, linewidth=0)
    axes.stairs(trace.scales, edges, fill=True, color=SCALE, alpha=0.16)
    axes.stairs(trace.scales, edges, color=SCALE, linewidth=2, baseline=None)
    axes.plot(trace.seconds, trace.scales, "o", color=SCALE, markersize=4)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.08 * max(s_max, float(trace.scales.max())))
    axes.set_ylabel("scale", color=INK, size=10)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    axes.tick_params(colors=FAINT, length=0, labelsize=9)
    axes.set_xticks([])
    heading = {"weight": "bold", "color": INK, "parse_math": False}
    axes.set_title(_printable(trace.question), loc="left", size=12, pad=22, **heading)
    right = trace.score >= 1.0
    said = f"answered “{_printable(trace.written)}”"
    said += ", right" if right else f", not “{_printable(trace.truth)}”"
    above = {"xycoords": "axes fraction", "textcoords": "offset points", "size": 10}
    above["parse_math"] = False
    axes.annotate(said, (0, 1), xytext=(0, 7), color=RIGHT if right else WRONG, **above)
    kept = f"{100 * trace.retention:.0f} % of the tokens"
    axes.annotate(kept, (1, 1), xytext=(0, 7), color=FAINT, ha="right", **above)


def _printable(text: str) -> str:
    """An untrained model may write anything; no font has glyphs for control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _draw_pictures(axes: Axes, trace: ScaleTrace) -> None:
    edges = _edges(trace.seconds)
    every = -(-len(trace.scales) // MAX_PICTURES)
    gap = 0.03 * (edges[1] - edges[0])
    for k in range(0, len(trace.scales), every):
        start, end = edges[k] + gap, edges[min(k + every, len(edges) - 1)] - gap
        axes.imshow(trace.pictures[k], extent=(start, end, 0, 1), aspect="auto")
        if trace.evidence[k : k + every].any():
            frame = ([start, end, end, start, start], [0, 0, 1, 1, 0])
            axes.plot(*frame, color="#f0a202", linewidth=3, clip_on=False, zorder=3)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_xticks(trace.seconds[::every], [f"{t:.1f} s" for t in trace.seconds[::every]])
    axes.tick_params(colors=FAINT, length=0, labelsize=8.5)
    axes.spines[:].set_visible(False)


def _legend(figure: Figure, size: tuple[float, float]) -> None:
    y = 1 - HEADER / 2 / size[1]
    left = LEFT / size[0]
    figure.text(left, y, "●", color=SCALE, size=11, va="center")
    figure.text(left + 0.18 / size[0], y, "scale of the pair", color=INK, size=10.5, va="center")
    left += 1.6 / size[0]
    figure.text(left, y, "■", color="#f0a202", size=11, va="center")
    text = "pairs that show the answer (unknown to the allocator)"
    figure.text(left + 0.18 / size[0], y, text, color=INK, size=10.5, va="center")
