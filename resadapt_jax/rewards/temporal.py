"""Temporal grounding: how much of the time named is the time meant."""

import itertools
import re
from typing import Literal

from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.text import brief, plain

Interval = tuple[float, float]

MAX_INTERVALS = 64
"""Of the intervals in a text the first so many are read."""

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
# A comma is a decimal point only in a time as subtitles write it, "00:00:13,000".
_CLOCK = (
    r"[0-9]{2}:[0-5][0-9]:[0-5][0-9],[0-9]{3}|"
    r"(?:[0-9]{1,2}:[0-5][0-9]|[0-9]{1,3}):[0-5][0-9](?:\.[0-9]{1,9})?"
)
# A dash is a sign where it is glued to a number and nothing ends right before it.
_SIGN = r"(?:(?<![\w.)\]}>'\"])-)?"
_UNIT = r"(?:[ \t]{0,2}(?:seconds?|secs?|s)\b\.?)?"
_WEAK, _STRONG = r",|\band\b", r"-{1,2}>?|~|→|\bto\b|\buntil\b"


def _patterns(time: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Times of one form: two in square brackets, starts and ends by name, two that are joined."""
    # No part of a longer number, one with an exponent, nor of a clock time of another form.
    time = rf"(?<![0-9.])(?<![0-9][:eE])({_SIGN}(?:{time}))(?![0-9]|[:eE][0-9])"
    bracketed = rf"\[[ ]?{time}{_UNIT}[ ]?(?:{_WEAK}|{_STRONG})[ ]?{time}{_UNIT}[ ]?\]"
    start = rf"(?:start|begin)[^0-9]{{0,40}}?{time}"
    end = rf"(?:end|finish|stop)[^0-9]{{0,40}}?{time}"
    gap = r"[^0-9]{0,40}?"
    keyed = rf"{start}{gap}{end}|{end}{gap}{start}"
    # of "scene 2, 5 to 9" the last two belong together
    opening = r"[\s\"'<\[(]{0,4}"
    pair = rf"{opening}-?[0-9.:]{{1,24}}{_UNIT}\s{{0,4}}(?:{_STRONG})\s{{0,4}}[0-9]"
    joint = rf"(?:(?:{_WEAK})(?!{pair})|{_STRONG})"
    joined = rf"{time}{_UNIT}[\s\"'>\])]{{0,4}}{joint}{opening}{time}"
    return tuple(re.compile(form, re.IGNORECASE) for form in (bracketed, keyed, joined))


_WITH_CLOCK, _SECONDS_ONLY = _patterns(rf"{_CLOCK}|{_NUMBER}"), _patterns(_NUMBER)[1:]


def parse_intervals(text: str, *, clock: bool = True) -> list[Interval]:
    """Every (start, end) in seconds that ``text`` names, in order; swapped ends are put right.

    Read are the first of these that there are: pairs in square brackets; starts and ends by name,
    as in JSON objects or "starts at 3 s and ends at 7 s"; two times joined by a comma, a dash, an
    arrow, "to", "and" or "until", with or without brackets. A time is a number of seconds or hours
    (if any), minutes and seconds with colons: "1:23", "0:01:05.5", "00:01:05,500". A number with a
    minus sign is negative: -2 is before the clip, not at 2 seconds.

    Args:
      clock: if False, times with colons are not read and brackets do not come first, as in the
        released code.
    """
    text = plain(text)
    for pattern in _WITH_CLOCK if clock else _SECONDS_ONLY:
        matches = itertools.islice(pattern.finditer(text), MAX_INTERVALS)
        found = [[_seconds(time) for time in match.groups() if time] for match in matches]
        if found:
            return [(min(ends), max(ends)) for ends in found]
    return []


def interval_iou(first: Interval, second: Interval) -> float:
    """|∩| / |∪| of two intervals; 0 if their union has no length."""
    overlap = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    union = (first[1] - first[0]) + (second[1] - second[0]) - overlap
    return overlap / union if union > 0.0 else 0.0


def temporal_iou(answer: str, truth: str, form: Literal["paper", "released"] = "paper") -> Grade:
    """Temporal IoU of the best pair of intervals; 0 if either side names none.

    paper: best over every interval of ``answer`` and of ``truth``, times min(1, T/A) where these
    name T and A different ones; released: only the first interval of ``answer``, and clock times
    are not read.
    """
    named = parse_intervals(answer, clock=form == "paper")
    named = named[:1] if form == "released" else list(dict.fromkeys(named))
    targets = list(dict.fromkeys(parse_intervals(truth)))
    if not targets:
        return Grade(accuracy=0.0, reason=f"no interval in truth {brief(truth)}", extracted="")
    if not named:
        return Grade(accuracy=0.0, reason=f"no interval in {brief(answer)}", extracted="")
    pairs = list(itertools.product(named, targets))
    iou, best = max(((interval_iou(*pair), pair) for pair in pairs), key=lambda found: found[0])
    reason = f"IoU {iou:.3g} of {_shown(best[0])} with {_shown(best[1])}"
    reason += f", best of {len(pairs)} pairs" if len(pairs) > 1 else ""
    if len(named) > len(targets):
        iou *= len(targets) / len(named)
        reason += f", times {len(targets)}/{len(named)} for naming so many"
    return Grade(accuracy=iou, reason=reason, extracted=_shown(best[0]))


def _seconds(time: str) -> float:
    value = 0.0
    for part in time.lstrip("-").split(":"):
        value = 60.0 * value + float(part.replace(",", "."))
    return -value if time.startswith("-") else value


def _shown(interval: Interval) -> str:
    return f"[{interval[0]:.10g}, {interval[1]:.10g}]"
