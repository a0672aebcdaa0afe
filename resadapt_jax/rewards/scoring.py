"""From what a model wrote to its reward."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_type_hints

from resadapt_jax.errors import UserError
from resadapt_jax.rewards.extraction import extract_answer, extract_passage
from resadapt_jax.rewards.formatting import format_reward
from resadapt_jax.rewards.general import exact_match, general
from resadapt_jax.rewards.grade import Grade
from resadapt_jax.rewards.grounding_qa import grounding_qa
from resadapt_jax.rewards.mathematics import mathematics
from resadapt_jax.rewards.multiple_choice import multiple_choice
from resadapt_jax.rewards.numeric import numeric
from resadapt_jax.rewards.ocr import ocr
from resadapt_jax.rewards.open_ended import open_ended
from resadapt_jax.rewards.quantity import parse_quantity
from resadapt_jax.rewards.regression import regression
from resadapt_jax.rewards.tasks import TaskType
from resadapt_jax.rewards.temporal import temporal_iou

SUCCESS_THRESHOLD = 0.35

Form = Literal["paper", "released"]

_PASSAGES = {
    TaskType.OCR,
    TaskType.OPEN_ENDED,
    TaskType.TEMPORAL_GROUNDING,
    TaskType.GROUNDING_QA,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Where paper and released code differ, and what is rewarded beside a right answer.

    Attributes:
      multiple_choice: ``"released"`` is F1 of the letters, ``"paper"`` their equality.
      numerical: ``"paper"`` is the tolerance alone; ``"released"`` gives what is not within it to
        the general matcher.
      mathematics: ``"paper"`` is the tolerance for numbers and a checker for expressions; in
        ``"released"`` whatever is not a plain number is wrong.
      open_ended: ``"paper"`` is ROUGE-L, ``"released"`` the mean of ROUGE-1, ROUGE-2 and ROUGE-L.
      free_form: ``"paper"`` grades as open-ended, ``"released"`` by the general matcher, where the
        released code ends up.
      temporal_grounding: ``"paper"`` takes the best pair of intervals, ``"released"`` reads only
        the first one of the answer, and no clock times.
      grounding_qa: ``"paper"`` is the mean of answer and IoU, ``"released"`` the general matcher,
        where the released code ends up.
      exact_match: ``"paper"`` is equality of the text, ``"released"`` the general matcher, where
        the released code ends up.
      general: ``"released"`` is the general matcher, ``"paper"`` equality of the text.
      format: ``"paper"`` asks for one think block and one answer block with a ``\\boxed{}``,
        ``"released"`` for nothing outside the two.
      format_weight: weight of the format reward in the total.
      malformed: format reward of an output whose tags are not all closed; 0 for the paper's binary
        reward without its penalty.
      overlong_buffer: the last tokens that an answer may have, over which `overlong_penalty` grows;
        0 for no penalty. `score`, which sees strings, leaves it out.
      default_task: task type of answers whose label is unknown; if empty, they are an error.
      maths_seconds: CPU time in which two expressions must turn out equivalent.
      num_workers: processes that grade a batch; 0 for this one alone.
    """

    multiple_choice: Form = "released"
    numerical: Form = "paper"
    mathematics: Form = "paper"
    open_ended: Form = "paper"
    free_form: Form = "paper"
    temporal_grounding: Form = "paper"
    grounding_qa: Form = "paper"
    exact_match: Form = "paper"
    general: Form = "released"
    format: Form = "released"
    format_weight: float = 0.2
    malformed: float = -1.0
    overlong_buffer: int = 0
    default_task: str = ""
    maths_seconds: float = 1.0
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if hint == Form and getattr(self, name) not in ("paper", "released"):
                raise ValueError(f"{name} must be paper or released, got {getattr(self, name)!r}")
        for name in ("format_weight", "overlong_buffer", "num_workers"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.maths_seconds > 0:
            raise ValueError(f"maths_seconds must be positive, got {self.maths_seconds}")
        if self.default_task:
            TaskType(self.default_task)


DEFAULT = RewardConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """The reward of one output, in parts, and why.

    Attributes:
      accuracy: in [0, 1].
      format: 1, 0 or what the config gives to malformed tags.
      total: accuracy + format_weight·format.
      task: what it was graded as.
      extracted: what the grader took as the answer.
      reason: what was compared with what, on one short line.
      parts: where accuracy is made of several things, what each came to.
    """

    accuracy: float
    format: float
    total: float
    task: TaskType
    extracted: str
    reason: str
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)


def task_type(label: str | None, config: RewardConfig = DEFAULT) -> TaskType:
    """The task type a label of the data names, or the config's default for unknown ones.

    Raises:
      UserError: an unknown label, and no default.
    """
    try:
        return TaskType(label)
    except UserError:
        if not config.default_task:
            raise
        return TaskType(config.default_task)


def score(
    task: TaskType | str | None,
    output: str,
    truth: str,
    config: RewardConfig = DEFAULT,
) -> Score:
    """Accuracy, format and their weighted sum for one output, with the reason.

    No string makes it raise. A truth may stand in the tags or the box of an ideal output.

    Raises:
      UserError: an unknown task type, and no default.
    """
    kind = task_type(task, config)
    rule = graded_as(kind, config)
    answer = extract_passage(output) if rule in _PASSAGES else extract_answer(output)
    grade = _grade(rule, answer, extract_passage(truth), config)
    form = format_reward(output, config.format, config.malformed)
    return Score(
        accuracy=grade.accuracy,
        format=form,
        total=grade.accuracy + config.format_weight * form,
        task=kind,
        extracted=grade.extracted,
        reason=grade.reason,
        parts=grade.parts,
    )


def score_batch(
    tasks: Sequence[TaskType | str | None],
    outputs: Sequence[str],
    truths: Sequence[str],
    config: RewardConfig = DEFAULT,
) -> list[Score]:
    """One score per output, in order, all in this process; `ScoringPool` spreads them over several.

    Raises:
      ValueError: sequences of different lengths.
      UserError: an unknown task type, and no default.
    """
    triples = zip(tasks, outputs, truths, strict=True)
    return [score(task, output, truth, config) for task, output, truth in triples]


def is_success(accuracy: float, threshold: float = SUCCESS_THRESHOLD) -> bool:
    """Whether an accuracy counts as a right answer: above the threshold, not at it."""
    return accuracy > threshold


def graded_as(kind: TaskType, config: RewardConfig) -> TaskType:
    """The kind whose rule grades answers of ``kind``."""
    match kind:
        case TaskType.FREE_FORM if config.free_form == "paper":
            return TaskType.OPEN_ENDED
        case TaskType.GENERAL if config.general == "paper":
            return TaskType.EXACT_MATCH
        case TaskType.FREE_FORM:
            return TaskType.GENERAL
        case TaskType.GROUNDING_QA if config.grounding_qa == "released":
            return TaskType.GENERAL
        case TaskType.EXACT_MATCH if config.exact_match == "released":
            return TaskType.GENERAL
    return kind


def _grade(rule: TaskType, answer: str, truth: str, config: RewardConfig) -> Grade:
    match rule:
        case TaskType.MULTIPLE_CHOICE:
            return multiple_choice(answer, truth, config.multiple_choice)
        case TaskType.NUMERICAL:
            grade = numeric(answer, truth)
            released = config.numerical == "released" and not grade.accuracy
            return general(answer, truth, config.maths_seconds) if released else grade
        case TaskType.MATHEMATICS:
            if config.mathematics == "released":
                return _released_mathematics(answer, truth, config.maths_seconds)
            return mathematics(answer, truth, config.maths_seconds)
        case TaskType.OCR:
            return ocr(answer, truth)
        case TaskType.OPEN_ENDED:
            return open_ended(answer, truth, config.open_ended)
        case TaskType.REGRESSION:
            return regression(answer, truth)
        case TaskType.TEMPORAL_GROUNDING:
            return temporal_iou(answer, truth, config.temporal_grounding)
        case TaskType.GROUNDING_QA:
            return grounding_qa(answer, truth)
        case TaskType.EXACT_MATCH:
            return exact_match(answer, truth)
    return general(answer, truth, config.maths_seconds)


def _released_mathematics(answer: str, truth: str, seconds: float) -> Grade:
    """Wrong unless both are plain numbers; those out of tolerance go to the general matcher."""
    if parse_quantity(answer) is None or parse_quantity(truth) is None:
        return Grade(accuracy=0.0, reason="not both plain numbers", extracted=answer)
    grade = mathematics(answer, truth, seconds)
    return grade if grade.accuracy else general(answer, truth, seconds)


def to_record(scored: Score) -> dict[str, Any]:
    """A score as JSON has it; ``from_record`` gives it back."""
    return {**dataclasses.asdict(scored), "task": scored.task.value}


def from_record(record: Mapping[str, Any]) -> Score:
    return Score(**{**record, "task": TaskType(record["task"])})
