"""Grounding QA: an answer, and the moment that shows it."""

import json

from resadapt_jax.rewards.multiple_choice import option_letter
from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.same_text import same_text
from resadapt_jax.rewards.temporal import temporal_iou
from resadapt_jax.rewards.text import brief, plain

_ANSWER_KEYS = ("answer", "qa", "option", "text")


def grounding_qa(answer: str, truth: str) -> Grade:
    """Mean of whether the answer is right and of the temporal IoU of its moment, in [0, 1].

    The paper adds the two up, to [0, 2]; the mean leaves accuracy where every threshold expects
    it. Both sides are ``answer <> [start, end]`` or a JSON object of an answer and times. Answers
    are right that are the same text, or the same option. Times count even if the answer is wrong.
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
    """The answer and the text of its times; either is empty where there is none."""
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
    answer, _, times = text.partition("<>")
    return answer.strip(), times.strip()


def _same_answer(given: str, expected: str) -> bool:
    """Whether two short answers are the same text or name the same option."""
    letters = option_letter(given), option_letter(expected)
    if None not in letters:
        return letters[0] == letters[1]
    return same_text(given, expected)
