"""Grounding QA: an answer, and the moment that shows it."""

import json
import re

from resadapt_jax.rewards.extraction import extract_answer
from resadapt_jax.rewards.multiple_choice import parse_option
from resadapt_jax.rewards.quantity import parse_quantity, same_quantity
from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.same_text import same_text
from resadapt_jax.rewards.temporal import split_at_interval, temporal_iou
from resadapt_jax.rewards.text import brief, plain

_ANSWER_KEYS = ("answer", "qa", "option", "text")
_PREPOSITION = re.compile(r"\b(?:at|from|between)$", re.IGNORECASE)
_EDGE = " \t\n,;:([<-"


def grounding_qa(answer: str, truth: str) -> Grade:
    """Mean of whether the answer is right and of the temporal IoU of its moment, in [0, 1].

    The paper adds the two up, to [0, 2]; the mean leaves accuracy where every threshold expects
    it. Both sides are ``answer <> [start, end]``, the same without the mark, or a JSON object of an
    answer and times. Answers are right that are the same text, number or option. Times count even
    if the answer is wrong.
    """
    given, expected = split_grounded(answer), split_grounded(truth)
    right = float(_same_answer(given[0], expected[0]))
    time = temporal_iou(given[1], expected[1])
    reason = f"answer {brief(given[0])} vs {brief(expected[0])}; {time.reason}"
    return Grade(
        accuracy=(right + time.accuracy) / 2,
        reason=reason,
        extracted=f"{given[0]} <> {time.extracted}",
        parts={"answer": right, "iou": time.accuracy},
    )


def split_grounded(text: str) -> tuple[str, str]:
    """The answer and the text of its times; either is empty where there is none.

    The answer is what stands before "<>", else before the first interval, less "at", "from" or
    "between"; of that what follows "the answer is", else the last line.
    """
    text = plain(text).strip()
    if text.startswith("{"):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            key = next((key for key in _ANSWER_KEYS if key in record), None)
            answer = "" if key is None else record.pop(key)
            return str(answer).strip(), json.dumps(record)
    answer, mark, times = text.partition("<>")
    if not mark:
        answer, times = split_at_interval(text)
        answer = _PREPOSITION.sub("", answer.rstrip(_EDGE)).rstrip(_EDGE) if times else answer
    return extract_answer(answer), times.strip()


def _same_answer(given: str, expected: str) -> bool:
    """Whether two short answers are the same text, the same number or name the same option."""
    options = parse_option(given), parse_option(expected)
    if None not in options:
        return options[0].same(options[1])
    numbers = parse_quantity(given), parse_quantity(expected)
    if None not in numbers:
        return same_quantity(*numbers, relative=0.0, absolute=0.0)
    return same_text(given, expected)
