"""Temporal grounding: how much of the time named is the time meant."""

import itertools
import re
from typing import Literal

from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.text import brief, plain

Interval = tuple[float, float]

MAX_INTERVALS = 64
"""Of the intervals in a text the first so many are read."""

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,40})?"
# A comma is a decimal point only in a time as subtitles write it, "00:00:13,000".
_CLOCK = (
    r"[0-9]{2}:[0-5][0-9]:[0-5][0-9],[0-9]{3}|"
    r"(?:[0-9]{1,2}:[0-5][0-9]|[0-9]{1,3}):[0-5][0-9](?:\.[0-9]{1,40})?"
)
# A dash is a sign where it is glued to a number and nothing ends right before it.
_SIGN = r"(?:(?<![\w.)\]}>'\"])-)?"
_UNIT = r"(?:[ \t]{0,2}(?:seconds?|secs?|s)\b\.?)?"
_WEAK, _STRONG = r",|\band\b", r"-{1,2}>?|~|→|\bto\b|\buntil\b"


_AMOUNT = rf"(?:[0-9]{{1,3}}(?:,[0-9]{{3}}){{1,2}}|{_NUMBER})"
_UNITS = {
    "h": r"(?:hours?|hrs?|h)(?![A-Za-z])",
    "ms": r"(?:milliseconds?|msecs?|ms)(?![A-Za-z])",
    "m": r"(?:minutes?|mins?|m)(?![A-Za-z])",
    "s": r"(?:seconds?|secs?|s)(?![A-Za-z])",
}
_IN_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}


def _duration_pattern() -> re.Pattern[str]:
    """Times in words or with units, "1h2m3s"; or two with the unit of the second, "3-7 minutes".

    Seconds alone are left as they are.
    """
    hours, thousandths, minutes, seconds = (
        rf"{_AMOUNT}[ ]{{0,2}}{unit}" for unit in _UNITS.values()
    )
    then = r"[ ]{0,2}(?:and[ ])?"
    sums = (
        rf"{hours}(?:{then}{minutes})?(?:{then}{seconds})?|"
        rf"{minutes}(?:{then}{seconds})?|{thousandths}"
    )
    # "1,500 ms" is one time
    comma = r",(?![0-9]{3}(?![0-9]))"
    joint = rf"[\s\])]{{0,2}}(?:{comma}|\band\b|{_STRONG})[\s\[(]{{0,2}}-?"
    unit = "|".join(_UNITS[name] for name in ("h", "ms", "m"))
    pair = (
        rf"(?P<first>{_AMOUNT})(?P<joint>{joint})(?P<second>{_AMOUNT})(?P<close>[\])]?)"
        rf"[ ]{{0,2}}(?P<unit>{unit})(?![ ]{{0,2}}[0-9])"
    )
    return re.compile(rf"(?<![\w.:])(?<![0-9],)(?:{pair}|{sums})", re.IGNORECASE)


_DURATION = _duration_pattern()
_TERM = re.compile(rf"(?P<amount>{_AMOUNT})[ ]{{0,2}}(?P<unit>[a-z]+)", re.IGNORECASE)


def _patterns(time: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Times of one form: two in square brackets, starts and ends by name, two that are joined."""
    # No part of a longer number, one with an exponent, nor of a clock time of another form.
    time = rf"(?<![0-9.])(?<![0-9][:eE])({_SIGN}(?:{time}))(?!\.?[0-9]|[:eE][0-9])"
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
    (if any), minutes and seconds with colons: "1:23", "0:01:05.5", "00:01:05,500", or with units:
    "1h2m3s", "3-7 minutes", "500 ms". A number with a minus sign is negative: -2 is before the
    clip, not at 2 seconds.

    Args:
      clock: if False, times with colons or units are not read and brackets do not come first, as
        in the released code.
    """
    text = plain(text)
    text = _DURATION.sub(_as_seconds, text) if clock else text
    return [interval for interval, _ in _found(text, _WITH_CLOCK if clock else _SECONDS_ONLY)]


def split_at_interval(text: str) -> tuple[str, str]:
    """``text`` before the first interval that `parse_intervals` reads, and from there on.

    All of it is before if there is none.
    """
    text = plain(text)
    found = _found(_DURATION.sub(_as_seconds, text), _WITH_CLOCK)
    if not found:
        return text, ""
    start = found[0][1]
    # from where it starts among seconds to where it starts in the text
    longer = 0
    for duration in _DURATION.finditer(text):
        if duration.start() + longer >= start:
            break
        longer += len(_as_seconds(duration)) - len(duration[0])
    return text[: start - longer], text[start - longer :]


def _found(text: str, patterns: tuple[re.Pattern[str], ...]) -> list[tuple[Interval, int]]:
    """The intervals of the first form that there are any of, and where each starts."""
    for pattern in patterns:
        matches = itertools.islice(pattern.finditer(text), MAX_INTERVALS)
        found = []
        for match in matches:
            ends = [_seconds(time) for time in match.groups() if time]
            found.append(((min(ends), max(ends)), match.start()))
        if found:
            return found
    return []


def _as_seconds(found: re.Match[str]) -> str:
    """What stands for a match of `_DURATION`: its times as numbers of seconds."""
    if found["unit"] is None:
        terms = _TERM.finditer(found[0])
        return _decimal(sum(_term(term["amount"], term["unit"]) for term in terms))
    first, second = (_decimal(_term(found[name], found["unit"])) for name in ("first", "second"))
    return f"{first}{found['joint']}{second}{found['close']}"


def _term(amount: str, unit: str) -> float:
    name = next(name for name, form in _UNITS.items() if re.fullmatch(form, unit, re.IGNORECASE))
    return float(amount.replace(",", "")) * _IN_SECONDS[name]


def _decimal(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


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
