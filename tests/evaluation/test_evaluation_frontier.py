"""The gain at matched retention and the standard error, by hand."""

import math

import numpy as np
import pytest

from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.evaluation.evaluator import Tally
from resadapt_jax.evaluation.frontier import (
    chance_of,
    fixed_scale_at,
    frontier_record,
    gain_at_matched_retention,
)
from resadapt_jax.evaluation.methods import MethodSetting


def point(method, retention, accuracy, setting=""):
    return {"method": method, "setting": setting, "retention": retention, "accuracy": accuracy}


FIXED = [point("fixed_scale", r, a) for r, a in ((0.25, 0.4), (0.0625, 0.3), (0.5, 0.8))]


def test_fixed_scale_is_interpolated_between_the_two_that_bracket():
    # 0.2 lies (0.2 - 0.0625) / (0.25 - 0.0625) = 11/15 of the way from 0.3 to 0.4; the point at
    # 0.5 must play no part.
    assert fixed_scale_at(0.2, FIXED) == pytest.approx(0.3 + 0.1 * 11 / 15)
    assert fixed_scale_at(0.25, FIXED) == 0.4
    assert fixed_scale_at(0.0625, FIXED) == 0.3
    assert fixed_scale_at(0.5, FIXED) == 0.8


def test_fixed_scale_is_never_extrapolated_nor_taken_from_other_methods():
    others = [point("vanilla", 1.0, 0.97), point("random_drop", 0.01, 0.1)]
    assert fixed_scale_at(0.06, FIXED + others) is None
    assert fixed_scale_at(0.51, FIXED + others) is None
    assert fixed_scale_at(0.2, others) is None


def test_gain_belongs_to_the_best_point_at_a_quarter_or_less():
    points = FIXED + [
        point("resadapt", 0.26, 0.99, "too dear"),
        point("resadapt", 0.25, 0.9, "at the limit"),
        point("resadapt", 0.1, 0.7, "cheap"),
        point("oracle", 0.2, 0.95),
    ]
    matched = gain_at_matched_retention(points)
    assert matched.point["setting"] == "at the limit"
    assert matched.gain == pytest.approx(0.9 - 0.4)
    assert matched.reason == ""


def test_of_equal_points_the_cheaper_is_judged():
    points = FIXED + [point("resadapt", r, 0.9, f"{r}") for r in (0.24, 0.15, 0.2)]
    assert gain_at_matched_retention(points).point["setting"] == "0.15"


def test_without_a_bracket_there_is_no_gain_but_a_reason():
    matched = gain_at_matched_retention(FIXED + [point("resadapt", 0.05, 0.9, "free")])
    assert matched.gain is None and matched.fixed_accuracy is None
    assert "bracket" in matched.reason and "0.050" in matched.reason


def test_without_a_cheap_point_there_is_no_gain_but_a_reason():
    matched = gain_at_matched_retention(FIXED + [point("resadapt", 0.3, 0.9, "free")])
    assert matched.gain is None and "25%" in matched.reason


def test_tally_counts_tokens_and_spreads_the_error():
    tally = Tally(
        native=40, encoded=[8, 8], tokens=[6, 4], scores=[1.0, 0.0, 1.0, 1.0], tasks=list("wwhh")
    )
    assert tally.retention == 10 / 40
    assert tally.encoded_share == 16 / 40
    assert tally.accuracy == 0.75
    # Σ(x - 3/4)² = 3/16 + 9/16 = 3/4; s² = 3/4 / 3 = 1/4; s / √4 = 1/4.
    assert tally.stderr == pytest.approx(0.25)
    assert tally.of_task("w") == [1.0, 0.0]
    assert Tally(scores=[1.0]).stderr == 0.0


def test_what_was_not_graded_is_in_no_accuracy():
    tally = Tally(native=40, tokens=[6], scores=[1.0, np.nan, 0.0, 1.0, 1.0], tasks=list("wwwhh"))
    assert (tally.accuracy, tally.stderr) == (0.75, pytest.approx(0.25))
    assert tally.of_task("w") == [1.0, 0.0]


def test_chance_weighs_tasks_by_how_often_they_are_asked():
    # 8 letters, 9 numbers, the 12 seconds of the clock.
    chance = chance_of(["which"] * 2 + ["how_many"] + ["when"], ToyWorldConfig())
    assert chance["accuracy"] == pytest.approx((2 / 8 + 1 / 9 + 1 / 12) / 4)
    assert chance["tasks"] == {"which": 1 / 8, "how_many": 1 / 9, "when": 1 / 12}


def tally(retention, scores):
    tokens = [int(100 * retention)] * len(scores)
    return Tally(
        native=100 * len(scores),
        encoded=tokens,
        tokens=tokens,
        scores=scores,
        tasks=["which"] * len(scores),
    )


def test_record_keeps_controls_apart_and_says_what_they_gain():
    rows = {
        ("vanilla", "scale 1"): tally(1.0, [1.0, 1.0, 1.0, 1.0]),
        ("fixed_scale", "0.1"): tally(0.1, [0.0, 0.0, 0.0, 1.0]),
        ("fixed_scale", "0.3"): tally(0.3, [0.0, 1.0, 0.0, 1.0]),
        ("resadapt", "free"): tally(0.2, [1.0, 1.0, 1.0, 1.0]),
        ("control", "blind"): tally(0.0, [0.0, 0.0, 0.0, 1.0]),
        ("control", "other_query"): tally(0.2, [0.0, 1.0, 0.0, 1.0]),
    }
    settings = [MethodSetting(method=m, name=n, build=lambda *_: None) for m, n in rows]
    record = frontier_record(settings, list(rows.values()), ToyWorldConfig())
    assert set(record) == {"points", "gain_at_matched_retention", "controls"}
    assert [p["method"] for p in record["points"]] == [
        "vanilla", "fixed_scale", "fixed_scale", "resadapt"
    ]  # fmt: skip
    # FixedScale at 0.2 is half way between 1/4 and 1/2.
    assert record["gain_at_matched_retention"] == pytest.approx(1 - 0.375)
    controls = record["controls"]
    assert controls["free"]["gain"] == pytest.approx(1 - 0.375)
    assert controls["other_query"]["gain"] == pytest.approx(0.5 - 0.375)
    assert controls["blind"]["gain"] is None  # no FixedScale point keeps nothing
    assert controls["best_resadapt"]["share_of_vanilla"] == 1.0
    which = record["points"][1]["tasks"]
    assert which == {"which": {"accuracy": 0.25, "clips": 4}}
    assert math.isclose(record["points"][1]["stderr"], 0.25)
