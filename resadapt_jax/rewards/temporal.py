"""Temporal grounding: how much of the time named is the time meant."""

import re
from typing import Literal

Interval = tuple[float, float]

# A number of seconds. One with a colon on either side is part of a clock time, which is not read.
_SECONDS = r"(?<![0-9.:])([0-9]{1,9}(?:\.[0-9]{1,9})?)(?![0-9:])"
_UNIT = r"(?:[ \t]{0,2}(?:seconds?|secs?|s)\b\.?)?"
_START = rf"(?:start|begin)[^0-9]{{0,40}}{_SECONDS}"
_END = rf"(?:end|finish|stop)[^0-9]{{0,40}}{_SECONDS}"
_KEYED = re.compile(rf"{_START}[^0-9]{{0,40}}?{_END}|{_END}[^0-9]{{0,40}}?{_START}", re.IGNORECASE)
_JOINED = re.compile(
    rf"{_SECONDS}{_UNIT}[\s\"'>\])]{{0,4}}(?:,|-|–|—|~|\bto\b|\band\b)[\s\"'<\[(]{{0,4}}{_SECONDS}",
    re.IGNORECASE,
)


def parse_intervals(text: str) -> list[Interval]:
    """Every (start, end) in seconds that ``text`` names, in order; swapped ends are put right.

    Read are starts and ends by name, as in JSON objects or "starts at 3 s and ends at 7 s", and if
    there are none, two numbers joined by a comma, a dash, "to" or "and", with or without brackets.
    """
    for pattern in (_KEYED, _JOINED):
        found = [[float(end) for end in ends if end] for ends in pattern.findall(text)]
        if found:
            return [(min(ends), max(ends)) for ends in found]
    return []


def interval_iou(first: Interval, second: Interval) -> float:
    """|∩| / |∪| of two intervals; 0 if their union has no length."""
    overlap = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    union = (first[1] - first[0]) + (second[1] - second[0]) - overlap
    return overlap / union if union > 0.0 else 0.0


def temporal_iou(answer: str, truth: str, form: Literal["paper", "released"] = "paper") -> float:
    """Temporal IoU of the best pair of intervals; 0 if either side names none.

    paper: best over every interval of ``answer`` and of ``truth``; released: only the first
    interval of ``answer``.
    """
    named = parse_intervals(answer)
    named = named[:1] if form == "released" else named
    pairs = ((interval, target) for interval in named for target in parse_intervals(truth))
    return max((interval_iou(*pair) for pair in pairs), default=0.0)
