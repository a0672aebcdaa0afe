"""Temporal grounding: which intervals are named, and their overlap."""

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import interval_iou, parse_intervals, temporal_iou


@pytest.mark.parametrize(
    ("text", "intervals"),
    rows(
        ("3 to 7", [(3, 7)], "joined by to"),
        ("3.0 to 7.5", [(3, 7.5)], "decimals"),
        ("[3, 7.666666666666667]", [(3, 23 / 3)], "as many as a float has"),
        ("3.3333333333333335, 7.0", [(10 / 3, 7)], "of the first"),
        ("[3, 7." + 50 * "6" + "]", [], "more than that are no number, nor is what is before them"),
        ("from 3 to 7", [(3, 7)], "after from"),
        ("From 3.0 seconds to 7.0 seconds.", [(3, 7)], "with units"),
        ("3s - 7s", [(3, 7)], "with short units and a dash"),
        ("3 sec. and 7 sec.", [(3, 7)], "joined by and"),
        ("between 3 and 7", [(3, 7)], "after between"),
        ("3 until 7", [(3, 7)], "joined by until"),
        ("3-7", [(3, 7)], "a dash is no sign between numbers"),
        ("3–7", [(3, 7)], "an en dash"),
        ("3—7", [(3, 7)], "an em dash"),
        ("3 --> 7", [(3, 7)], "an arrow, as in subtitles"),
        ("3, 7", [(3, 7)], "a comma"),
        ("3,7", [(3, 7)], "a comma is no decimal point"),
        ("3，7", [(3, 7)], "a full-width comma"),
        ("[3, 7]", [(3, 7)], "square brackets"),
        ("(3.25, 7.75)", [(3.25, 7.75)], "round brackets"),
        ("[3] - [7]", [(3, 7)], "brackets around each"),
        ("<3.0> to <7.0>", [(3, 7)], "angle brackets"),
        ("3\nto\n7", [(3, 7)], "line breaks"),
        ("٣ to ٧", [(3, 7)], "Arabic digits"),
        ("3 to 7: a man walks", [(3, 7)], "a colon after it"),
        ("7 to 3", [(3, 7)], "reversed"),
        ("[[1, 2], [5, 9]]", [(1, 2), (5, 9)], "several in a list"),
        ("1-2 and 5-9", [(1, 2), (5, 9)], "several in a sentence"),
        ('{"start": 3.0, "end": 7.5}', [(3, 7.5)], "an object"),
        ('{"start":3,"end":7}', [(3, 7)], "an object without spaces"),
        ('{"end": 7, "start": 3}', [(3, 7)], "an object the other way round"),
        ('{"start": 3}, {"start": 7}', [], "two starts"),
        ('[{"start": 1, "end": 2}, {"start": 5, "end": 9}]', [(1, 2), (5, 9)], "several objects"),
        ('{"start_time": "3.0s", "end_time": "7.0s"}', [(3, 7)], "longer keys and units"),
        ('{"start": "00:01:23", "end": "00:02:10.5"}', [(83, 130.5)], "clock times in an object"),
        ("It starts at 3 seconds and ends at 7 seconds.", [(3, 7)], "starts and ends"),
        ("begins at 3, finishing at 7", [(3, 7)], "begins and finishes"),
        ("start: 7 end: 3", [(3, 7)], "reversed by name"),
        ("4 to 4", [(4, 4)], "no length"),
        ("1:23 to 2:10", [(83, 130)], "minutes and seconds"),
        ("01:02-01:10", [(62, 70)], "minutes and seconds with a dash"),
        ("[0:01:05.5, 0:01:10]", [(65.5, 70)], "hours, minutes and seconds"),
        ("00:01:23 - 00:02:10", [(83, 130)], "hours of nothing"),
        ("1:00:00 to 1:00:30", [(3600, 3630)], "an hour"),
        ("75:30 to 76:00", [(4530, 4560)], "more than an hour of minutes"),
        ("58 to 1:02", [(58, 62)], "seconds to minutes"),
        ("1:23 and 20 s", [(20, 83)], "minutes to seconds, reversed"),
        ("1:5 to 1:7", [], "a clock has two digits of seconds"),
        ("1:75 to 1:80", [], "and fewer than sixty"),
        ("1:2:3 to 4:5:6", [], "and of minutes"),
        ("00:00:13,000 --> 00:00:29,500", [(13, 29.5)], "times as in subtitles"),
        ("[0:13, 0:29]", [(13, 29)], "a comma after a clock time is no decimal point"),
        ("0:13,100", [(13, 100)], "not even before three digits"),
        ("13 → 29", [(13, 29)], "an arrow in one character"),
        ("starts at 0 and ends at 30; the event is [3, 7]", [(3, 7)], "brackets before names"),
        ("of 0 to 30 seconds it is [3.0 s, 7.0 s]", [(3, 7)], "brackets before a sentence"),
        ("Scene 2, 5 to 9 seconds", [(5, 9)], "a comma before a pair that is joined by more"),
        ("Scene 2 and 5 s - 9 s", [(5, 9)], "so is and"),
        ("1-2, 5-9", [(1, 2), (5, 9)], "a comma between pairs"),
        ("3, 7 and 10, 12", [(3, 7), (10, 12)], "and between pairs"),
        ("-2 to 4", [(-2, 4)], "a negative start stays negative"),
        ("[-2, 4]", [(-2, 4)], "in brackets"),
        ("[2, -4]", [(-4, 2)], "a negative end comes first"),
        ("−2 to 4", [(-2, 4)], "the minus sign of Unicode"),
        ('{"start": -2, "end": 4}', [(-2, 4)], "in an object"),
        ("-0:30 to 0:30", [(-30, 30)], "a negative clock time"),
        ("-3 - -1", [(-3, -1)], "both negative, joined by a dash"),
        ("1m3s to 1m7s", [(63, 67)], "minutes and seconds with units"),
        ("1h2m3s to 1h2m7s", [(3723, 3727)], "with hours: 3600 + 120 + 3"),
        ("from 1 minute 3 seconds to 1 minute 7 seconds", [(63, 67)], "in words"),
        ("1 minute and 3 seconds to 1 minute and 7 seconds", [(63, 67)], "with and"),
        ("from 58 s to 1 min 2 s", [(58, 62)], "seconds to minutes with units"),
        ("3-7 minutes", [(180, 420)], "one unit for both"),
        ("[3, 7] minutes", [(180, 420)], "after the bracket"),
        ("[3,7] min", [(180, 420)], "without a space"),
        ("between 3 and 7 minutes", [(180, 420)], "joined by and"),
        ("3 min to 4 min", [(180, 240)], "minutes"),
        ("1.5 hours to 2 hours", [(5400, 7200)], "hours"),
        ("500 ms to 900 ms", [(0.5, 0.9)], "thousandths"),
        ("1,500 ms to 1,900 ms", [(1.5, 1.9)], "with a separator"),
        ("starts at 1m3s and ends at 1m7s", [(63, 67)], "starts and ends with units"),
        ('{"start": "1m3s", "end": "1m7s"}', [(63, 67)], "in an object"),
        ("1:03-1:07 min", [(63, 67)], "clock times with a unit"),
        ("3 men to 7 men", [], "words that start like a unit"),
        ("", [], "nothing"),
        ("3", [], "a moment"),
        ("at 3 seconds", [], "a moment in a sentence"),
        ("3 7", [], "two numbers side by side"),
        ("3 or 7", [], "one or the other"),
        ("three to seven", [], "in words"),
        ("start end", [], "names without numbers"),
        ("to 7", [], "no start"),
        ("1234567890123 to 7", [], "more digits than a clip has seconds"),
        ("{", [], "half an object"),
        ("nan to inf", [], "no numbers"),
    ),
)
def test_parse_intervals(text, intervals):
    assert parse_intervals(text) == intervals


def test_clock_times_can_be_left_unread():
    assert parse_intervals("1:23 to 2:10", clock=False) == []
    assert parse_intervals("3 to 7", clock=False) == [(3, 7)]


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        ((3, 7), (3, 7), 1.0),
        ((3, 7), (5, 9), 2 / 6),
        ((5, 9), (3, 7), 2 / 6),
        ((0, 10), (4, 5), 1 / 10),
        ((-2, 4), (0, 4), 4 / 6),
        ((0, 1), (1, 2), 0.0),
        ((0, 1), (5, 6), 0.0),
        ((4, 4), (3, 5), 0.0),
        ((4, 4), (4, 4), 0.0),
    ],
)
def test_interval_iou(first, second, iou):
    assert interval_iou(first, second) == pytest.approx(iou)


# |∩| / |∪| in seconds, worked out in the reason.
@pytest.mark.parametrize(
    ("answer", "truth", "paper", "released"),
    rows(
        ("3 to 7", "[3, 7]", 1.0, 1.0, "the interval"),
        ("[3.0, 7.0]", "3 to 7", 1.0, 1.0, "the interval, written otherwise"),
        ("7 to 3", "[3, 7]", 1.0, 1.0, "reversed"),
        ("3 to 7", "[7, 3]", 1.0, 1.0, "a reversed truth"),
        ("5 to 9", "[3, 7]", 2 / 6, 2 / 6, "5 to 7 of 3 to 9"),
        ("4 to 6", "[3, 7]", 2 / 4, 2 / 4, "within it"),
        ("0 to 10", "[3, 7]", 4 / 10, 4 / 10, "around it"),
        ("0 to 2", "[3, 7]", 0.0, 0.0, "before it"),
        ("7 to 9", "[3, 7]", 0.0, 0.0, "touching it"),
        ("[[1, 2], [3, 7]]", "[3, 7]", 1 / 2, 0.0, "the second is right: 1 times 1/2"),
        ("[[3, 7], [1, 2]]", "[3, 7]", 1 / 2, 1.0, "the first is right: 1 times 1/2"),
        ("3 to 7, that is [3, 7]", "[3, 7]", 1.0, 1.0, "said twice is named once"),
        ("[1, 2], [3, 7], [8, 9]", "[[3, 7], [20, 21]]", 2 / 3, 0.0, "three for two: 1 times 2/3"),
        ("[1, 2], [3, 7]", "[[3, 7], [20, 21]]", 1.0, 0.0, "two for two"),
        (str([[t, t + 4] for t in range(55)]), "[3, 7]", 1 / 55, 1 / 7, "a grid: 1 times 1/55"),
        ("3 to 7", "[[1, 2], [3, 7]]", 1.0, 1.0, "one of two truths"),
        ("[[0, 1], [4, 8]]", "[[10, 20], [4, 6]]", 2 / 4, 0.0, "the best pair: 4 to 6 of 4 to 8"),
        ("[[0, 1], [4, 8]]", "[[4, 6], [4, 6]]", 1 / 4, 0.0, "the same truth twice: times 1/2"),
        ("[[0, 1], [2, 3]]", "[[4, 5], [6, 7]]", 0.0, 0.0, "no pair overlaps"),
        ("1:00 to 1:10", "[60, 70]", 1.0, 0.0, "clock times, which the released code cannot read"),
        ("60 to 70", "1:00 to 1:10", 1.0, 1.0, "a truth in clock times"),
        ("0:01:05 to 0:01:15", "[60, 70]", 5 / 15, 0.0, "65 to 70 of 60 to 75"),
        ("[-2, 4]", "[0, 4]", 4 / 6, 4 / 6, "before the clip: 0 to 4 of -2 to 4"),
        ("[-4, -2]", "[2, 4]", 0.0, 0.0, "both ends before the clip are not turned positive"),
        ("-7 to -3", "3 to 7", 0.0, 0.0, "nor in words"),
        ("5 to 5", "[3, 7]", 0.0, 0.0, "no length"),
        ("5 to 5", "[5, 5]", 0.0, 0.0, "no length, and a truth of none"),
        ("around 5", "[3, 7]", 0.0, 0.0, "a moment"),
        ("", "[3, 7]", 0.0, 0.0, "nothing"),
        ("never", "[3, 7]", 0.0, 0.0, "no number"),
        ("three to seven", "[3, 7]", 0.0, 0.0, "in words"),
        ("3 to 7", "unknown", 0.0, 0.0, "a truth that is no interval"),
        ("0 to 999999999", "[3, 7]", 4 / 999999999, 4 / 999999999, "all of time: 4 of 999999999"),
        ("nan to inf", "[3, 7]", 0.0, 0.0, "no numbers"),
        ("1e9 to 2e9", "[3, 7]", 0.0, 0.0, "exponents are not read"),
        ("٣ to ٧", "[3, 7]", 1.0, 1.0, "Arabic digits"),
        ("\u202e3 to 7\u202c", "[3, 7]", 1.0, 1.0, "between marks of direction"),
        ("{'start': 3, 'end': 7}", "[3, 7]", 1.0, 1.0, "a Python dict"),
        ('{"start": 5, "end": 9}', "[3, 7]", 2 / 6, 2 / 6, "an object: 5 to 7 of 3 to 9"),
        ("__import__('time').sleep(9) or [3, 7]", "[3, 7]", 1.0, 1.0, "code is not run"),
        ("0 to 1 " * 64 + "3 to 7", "[3, 7]", 0.0, 0.0, "the first 64 intervals are read"),
    ),
)
def test_temporal_iou(answer, truth, paper, released):
    assert temporal_iou(answer, truth).accuracy == pytest.approx(paper)
    assert temporal_iou(answer, truth, "released").accuracy == pytest.approx(released)


def test_it_explains_itself():
    grade = temporal_iou("maybe 5 to 9", "[3, 7]")
    assert (grade.extracted, grade.reason) == ("[5, 9]", "IoU 0.333 of [5, 9] with [3, 7]")
    two = temporal_iou("[[0, 1], [3, 7]]", "[3, 7]")
    assert two.reason == (
        "IoU 1 of [3, 7] with [3, 7], best of 2 pairs, times 1/2 for naming so many"
    )
    assert temporal_iou("never", "[3, 7]").reason == "no interval in 'never'"
    assert temporal_iou("3 to 7", "never").reason == "no interval in truth 'never'"


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for pair in ((text, "[3, 7]"), ("[3, 7]", text), (text, text)):
        assert 0.0 <= temporal_iou(*pair).accuracy <= 1.0
