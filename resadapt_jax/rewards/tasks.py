"""The table of tasks: for each what to ask of a model, and how to grade what it wrote.

A new task is a member of `TaskType` and a row of `TASKS`.
"""

import dataclasses
from collections.abc import Callable

from resadapt_jax.rewards import truths
from resadapt_jax.rewards.config import RewardConfig
from resadapt_jax.rewards.general import exact_match, general
from resadapt_jax.rewards.grounding_qa import grounding_qa
from resadapt_jax.rewards.mathematics import mathematics
from resadapt_jax.rewards.multiple_choice import multiple_choice
from resadapt_jax.rewards.numeric import numeric
from resadapt_jax.rewards.ocr import ocr
from resadapt_jax.rewards.open_ended import open_ended
from resadapt_jax.rewards.quantity import parse_quantity
from resadapt_jax.rewards.regression import regression
from resadapt_jax.rewards.results import Grade
from resadapt_jax.rewards.task_type import TaskType
from resadapt_jax.rewards.temporal import temporal_iou


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grader:
    """How answers are graded.

    Attributes:
      grade: of an answer and a truth.
      fault: why no answer could be graded against a truth, None if answers can.
      spans_lines: whether an answer may have several lines.
    """

    grade: Callable[[str, str], Grade]
    fault: Callable[[str], str | None] = lambda truth: None
    spans_lines: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of question.

    Attributes:
      wanted: what an answer is, as an instruction asks for it.
      grader: for a config.
    """

    wanted: str
    grader: Callable[[RewardConfig], Grader]


def _general(config: RewardConfig) -> Grader:
    return Grader(grade=lambda answer, truth: general(answer, truth, config.maths_seconds))


def _exact_match(config: RewardConfig) -> Grader:
    return Grader(grade=exact_match)


def _multiple_choice(config: RewardConfig) -> Grader:
    form = config.multiple_choice
    return Grader(grade=lambda answer, truth: multiple_choice(answer, truth, form))


def _numerical(config: RewardConfig) -> Grader:
    if config.numerical == "paper":
        return Grader(grade=numeric, fault=truths.no_number)

    def released(answer: str, truth: str) -> Grade:
        near = numeric(answer, truth)
        return near if near.accuracy else general(answer, truth, config.maths_seconds)

    return Grader(grade=released)


def _mathematics(config: RewardConfig) -> Grader:
    seconds = config.maths_seconds
    if config.mathematics == "paper":
        return Grader(
            grade=lambda answer, truth: mathematics(answer, truth, seconds),
            fault=truths.no_mathematics,
        )

    def released(answer: str, truth: str) -> Grade:
        numbers = parse_quantity(answer), parse_quantity(truth)
        if None in numbers or numbers[0].one_letter or numbers[1].one_letter:
            return Grade(accuracy=0.0, reason="not both plain numbers", extracted=answer)
        near = mathematics(answer, truth, seconds)
        return near if near.accuracy else general(answer, truth, seconds)

    return Grader(grade=released, fault=truths.no_plain_number)


def _ocr(config: RewardConfig) -> Grader:
    return Grader(grade=ocr, spans_lines=True)


def _open_ended(config: RewardConfig) -> Grader:
    form = config.open_ended
    return Grader(
        grade=lambda answer, truth: open_ended(answer, truth, form),
        fault=lambda truth: truths.no_words(truth, form),
        spans_lines=True,
    )


def _regression(config: RewardConfig) -> Grader:
    return Grader(grade=regression, fault=truths.no_number)


def _temporal_grounding(config: RewardConfig) -> Grader:
    form = config.temporal_grounding
    return Grader(
        grade=lambda answer, truth: temporal_iou(answer, truth, form),
        fault=truths.no_interval,
        spans_lines=True,
    )


def _grounding_qa(config: RewardConfig) -> Grader:
    return Grader(grade=grounding_qa, fault=truths.no_grounded_answer, spans_lines=True)


TASKS = {
    TaskType.MULTIPLE_CHOICE: Task(
        wanted="the letter of the right option",
        grader=_multiple_choice,
    ),
    TaskType.NUMERICAL: Task(
        wanted="one number",
        grader=_numerical,
    ),
    TaskType.MATHEMATICS: Task(
        wanted="the final number or expression",
        grader=_mathematics,
    ),
    TaskType.OCR: Task(
        wanted="the text that you read, letter by letter as it is written",
        grader=_ocr,
    ),
    TaskType.OPEN_ENDED: Task(
        wanted="the answer in one or two sentences",
        grader=_open_ended,
    ),
    TaskType.FREE_FORM: Task(
        wanted="the answer in one or two sentences",
        grader=lambda config: (_open_ended if config.free_form == "paper" else _general)(config),
    ),
    TaskType.REGRESSION: Task(
        wanted="one number",
        grader=_regression,
    ),
    TaskType.TEMPORAL_GROUNDING: Task(
        wanted="when it starts and when it ends as [start, end], in seconds with one decimal",
        grader=_temporal_grounding,
    ),
    TaskType.GROUNDING_QA: Task(
        wanted=(
            "the answer and the moment that shows it as answer <> [start, end], the times in "
            "seconds with one decimal and the answer by its letter where there are options"
        ),
        grader=lambda config: (_grounding_qa if config.grounding_qa == "paper" else _general)(
            config
        ),
    ),
    TaskType.EXACT_MATCH: Task(
        wanted="the answer in as few words as possible",
        grader=lambda config: (_exact_match if config.exact_match == "paper" else _general)(config),
    ),
    TaskType.GENERAL: Task(
        wanted="the answer in as few words as possible",
        grader=lambda config: (_exact_match if config.general == "paper" else _general)(config),
    ),
}
