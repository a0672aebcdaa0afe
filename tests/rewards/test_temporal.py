"""Temporal grounding: which intervals are named, and their overlap."""

import pytest

from resadapt_jax.rewards import interval_iou, parse_intervals, temporal_iou


@pytest.mark.parametrize(
    ("text", "intervals"),
    [
        ("3 to 7", [(3, 7)]),
        ("3.0 to 7.5", [(3, 7.5)]),
        ("from 3 to 7", [(3, 7)]),
        ("From 3.0 seconds to 7.0 seconds.", [(3, 7)]),
        ("3s - 7s", [(3, 7)]),
        ("3 sec. and 7 sec.", [(3, 7)]),
        ("between 3 and 7", [(3, 7)]),
        ("3-7", [(3, 7)]),
        ("3–7", [(3, 7)]),
        ("3, 7", [(3, 7)]),
        ("3,7", [(3, 7)]),
        ("[3, 7]", [(3, 7)]),
        ("(3.25, 7.75)", [(3.25, 7.75)]),
        ("[3] - [7]", [(3, 7)]),
        ("<3.0> to <7.0>", [(3, 7)]),
        ("3\nto\n7", [(3, 7)]),
        ("7 to 3", [(3, 7)]),
        ("[[1, 2], [5, 9]]", [(1, 2), (5, 9)]),
        ("1-2 and 5-9", [(1, 2), (5, 9)]),
        ('{"start": 3.0, "end": 7.5}', [(3, 7.5)]),
        ('{"end": 7, "start": 3}', [(3, 7)]),
        ('{"start": 3}, {"start": 7}', []),
        ('[{"start": 1, "end": 2}, {"start": 5, "end": 9}]', [(1, 2), (5, 9)]),
        ('{"start_time": "3.0s", "end_time": "7.0s"}', [(3, 7)]),
        ("It starts at 3 seconds and ends at 7 seconds.", [(3, 7)]),
        ("begins at 3, finishing at 7", [(3, 7)]),
        ("start: 7 end: 3", [(3, 7)]),
        ("4 to 4", [(4, 4)]),
        # nothing that is an interval in seconds
        ("", []),
        ("3", []),
        ("at 3 seconds", []),
        ("3 7", []),
        ("3 or 7", []),
        ("three to seven", []),
        ("1:23 to 2:10", []),
        ("00:01:23 - 00:02:10", []),
        ("start end", []),
        ("to 7", []),
        ("{", []),
    ],
)
def test_parse_intervals(text, intervals):
    assert parse_intervals(text) == intervals


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        ((3, 7), (3, 7), 1.0),
        ((3, 7), (5, 9), 2 / 6),
        ((5, 9), (3, 7), 2 / 6),
        ((0, 10), (4, 5), 1 / 10),
        ((0, 1), (1, 2), 0.0),
        ((0, 1), (5, 6), 0.0),
        ((4, 4), (3, 5), 0.0),
        ((4, 4), (4, 4), 0.0),
    ],
)
def test_interval_iou(first, second, iou):
    assert interval_iou(first, second) == pytest.approx(iou)


@pytest.mark.parametrize(
    ("answer", "truth", "paper", "released"),
    [
        ("3 to 7", "[3, 7]", 1.0, 1.0),
        ("7 to 3", "[3, 7]", 1.0, 1.0),
        ("5 to 9", "[3, 7]", 1 / 3, 1 / 3),
        ("0 to 2", "[3, 7]", 0.0, 0.0),
        ("[[1, 2], [3, 7]]", "[3, 7]", 1.0, 0.0),
        ("[[3, 7], [1, 2]]", "[3, 7]", 1.0, 1.0),
        ("3 to 7", "[[1, 2], [3, 7]]", 1.0, 1.0),
        ("[[0, 1], [4, 8]]", "[[10, 20], [4, 6]]", 1 / 2, 0.0),
        ("around 5", "[3, 7]", 0.0, 0.0),
        ("", "[3, 7]", 0.0, 0.0),
        ("5 to 5", "[3, 7]", 0.0, 0.0),
        ("0 to 999999999", "[3, 7]", 4 / 999999999, 4 / 999999999),
        ("3 to 7", "unknown", 0.0, 0.0),
    ],
)
def test_temporal_iou(answer, truth, paper, released):
    assert temporal_iou(answer, truth) == pytest.approx(paper)
    assert temporal_iou(answer, truth, "released") == pytest.approx(released)
