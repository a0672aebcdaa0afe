"""The pictures and the table of a record made by hand; what they look like was judged by eye."""

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from resadapt_jax.report.frontier import frontier_png, frontier_table
from resadapt_jax.report.scale_traces import ScaleTrace, scale_traces_png


def point(method, setting, retention, accuracy):
    tasks = {"which": {"accuracy": accuracy, "clips": 10}}
    figures = {"retention": retention, "encoded": 0.5, "accuracy": accuracy}
    figures |= {"stderr": 0.01, "clips": 10}
    return {"method": method, "setting": setting, **figures, "tasks": tasks}


@pytest.fixture
def record():
    other = point("control", "other_query", 0.2, 0.35)
    return {
        "points": [
            point("vanilla", "scale 1", 1.0, 0.97),
            point("random_drop", "tokens 0.25", 0.25, 0.3),
            point("fixed_scale", "0.1", 0.1, 0.2),
            point("fixed_scale", "0.25", 0.25, 0.35),
            point("oracle", "evidence at 1", 0.18, 0.95),
            point("resadapt", "free", 0.2, 0.9),
            point("resadapt", "budget 0.1", 0.1, 0.6),
        ],
        "gain_at_matched_retention": 0.6,
        "controls": {
            "chance": {"accuracy": 0.125, "tasks": {"which": 0.125}},
            "blind": point("control", "blind", 0.0, 0.11),
            "other_query": other,
            "best_resadapt": {
                "setting": "free",
                "retention": 0.2,
                "accuracy": 0.9,
                "stderr": 0.01,
                "share_of_vanilla": 0.9278,
                "fixed_scale_accuracy": 0.3,
            },
        },
    }


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_frontier_draws_every_method(record):
    """Taking any method's points away changes the picture."""
    full = pixels(frontier_png(record))
    assert full.shape == (930, 1440, 3)
    for method in ("random_drop", "fixed_scale", "oracle", "resadapt"):
        fewer = [p for p in record["points"] if p["method"] != method]
        assert not np.array_equal(full, pixels(frontier_png({**record, "points": fewer})))


def test_points_stand_at_their_figures(record, monkeypatch):
    drawn = {}

    def errorbar(axes, x, y, yerr=None, **style):
        for *place, error in zip(*map(np.atleast_1d, (x, y, yerr)), strict=True):
            drawn[tuple(map(float, place))] = float(error)
        return honest(axes, x, y, yerr=yerr, **style)

    honest = Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", errorbar)
    frontier_png(record)
    points = [*record["points"], record["controls"]["other_query"]]
    assert drawn == {(p["retention"], p["accuracy"]): 0.01 for p in points}


def test_frontier_without_a_gain_or_controls_is_drawn(record):
    record["gain_at_matched_retention"] = None
    record["controls"] = {"chance": record["controls"]["chance"], "best_resadapt": {"reason": ""}}
    assert pixels(frontier_png(record)).shape == (930, 1440, 3)


def test_table_holds_the_figures(record):
    lines = frontier_table(record).splitlines()
    assert lines[0].split() == ["method", "setting", "retention", "encoded", "accuracy", "which"]
    free = next(line for line in lines if line.startswith("resadapt") and "free" in line)
    assert free.split() == ["resadapt", "free", "20.0", "50.0", "90.0", "±", "1.0", "90.0"]
    assert lines[-1] == "gain at matched retention: +60.0 points over FixedScale's 30.0 %"
    widths = {len(line) for line in lines if line.startswith(("method", "vanilla", "resadapt"))}
    assert len(widths) == 1


def test_table_says_why_there_is_no_gain(record):
    record["gain_at_matched_retention"] = None
    record["controls"]["best_resadapt"] = {"reason": "no resadapt point is cheap enough"}
    last = frontier_table(record).splitlines()[-1]
    assert last == "gain at matched retention: none, no resadapt point is cheap enough"


def trace(num_pairs=3, scale=1.0, evidence=(1,), written="A"):
    return ScaleTrace(
        question="Which letter is on the red sign?",
        written=written,
        truth="B",
        score=0.0,
        retention=0.2,
        pictures=np.full((num_pairs, 28, 28, 3), 90, np.uint8),
        seconds=np.arange(num_pairs) + 0.25,
        scales=np.full(num_pairs, scale),
        evidence=np.isin(np.arange(num_pairs), evidence),
    )


def test_traces_show_scales_and_evidence():
    first = pixels(scale_traces_png([trace()], s_max=1.0))
    lower = pixels(scale_traces_png([trace(scale=0.5)], s_max=1.0))
    elsewhere = pixels(scale_traces_png([trace(evidence=(2,))], s_max=1.0))
    assert first.shape == lower.shape == elsewhere.shape
    assert not np.array_equal(first, lower) and not np.array_equal(first, elsewhere)


@pytest.mark.parametrize("num_pairs", [1, 40])
def test_traces_of_any_length_are_drawn(num_pairs):
    assert pixels(scale_traces_png([trace(num_pairs)] * 3, s_max=1.0)).size > 0


@pytest.mark.filterwarnings("error")
def test_whatever_a_model_writes_is_drawn():
    assert pixels(scale_traces_png([trace(written="$\x12\n\\frac{")], s_max=1.0)).size > 0
