"""From what a model wrote to its reward."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from resadapt_jax.rewards.extraction import extract_answer, extract_passage
from resadapt_jax.rewards.formatting import format_reward
from resadapt_jax.rewards.multiple_choice import multiple_choice
from resadapt_jax.rewards.numeric import numeric
from resadapt_jax.rewards.tasks import TaskType
from resadapt_jax.rewards.temporal import temporal_iou

SUCCESS_THRESHOLD = 0.35


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Where paper and released code differ, and what is rewarded beside a right answer.

    Attributes:
      multiple_choice: ``"released"`` is F1 of the letters, ``"paper"`` their equality.
      temporal_grounding: ``"paper"`` takes the best pair of intervals, ``"released"`` reads only
        the first one of the answer.
      format_weight: weight of the format reward in the total.
      require_boxed: whether a well-formed answer holds a ``\\boxed{}``, as the paper says.
      overlong_buffer: the last tokens that an answer may have, over which `overlong_penalty` grows;
        0 for no penalty. `score`, which sees strings, leaves it out.
    """

    multiple_choice: Literal["paper", "released"] = "released"
    temporal_grounding: Literal["paper", "released"] = "paper"
    format_weight: float = 0.2
    require_boxed: bool = False
    overlong_buffer: int = 0

    def __post_init__(self) -> None:
        for name in ("multiple_choice", "temporal_grounding"):
            if getattr(self, name) not in ("paper", "released"):
                raise ValueError(f"{name} must be paper or released, got {getattr(self, name)!r}")
        for name in ("format_weight", "overlong_buffer"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """The reward of one output, in parts.

    Attributes:
      accuracy: in [0, 1].
      format: 1, 0 or -1.
      total: accuracy + format_weight·format.
    """

    accuracy: float
    format: float
    total: float


def accuracy(
    task_type: TaskType | str,
    output: str,
    truth: str,
    config: RewardConfig = RewardConfig(),
) -> float:
    """Accuracy in [0, 1] of ``output``, any string, by the rule of its task.

    Raises:
      ValueError: an unknown task type.
    """
    match TaskType(task_type):
        case TaskType.MULTIPLE_CHOICE:
            return multiple_choice(extract_answer(output), truth, config.multiple_choice)
        case TaskType.NUMERICAL:
            return numeric(extract_answer(output), truth)
        case TaskType.TEMPORAL_GROUNDING:
            return temporal_iou(extract_passage(output), truth, config.temporal_grounding)


def score(
    task_type: TaskType | str,
    output: str,
    truth: str,
    config: RewardConfig = RewardConfig(),
) -> Score:
    """Accuracy, format and their weighted sum for one output. Never raises on a string."""
    correct = accuracy(task_type, output, truth, config)
    form = format_reward(output, require_boxed=config.require_boxed)
    return Score(accuracy=correct, format=form, total=correct + config.format_weight * form)


def score_batch(
    task_types: Sequence[TaskType | str],
    outputs: Sequence[str],
    truths: Sequence[str],
    config: RewardConfig = RewardConfig(),
) -> list[Score]:
    """One score per output, in order.

    Raises:
      ValueError: sequences of different lengths, or an unknown task type.
    """
    triples = zip(task_types, outputs, truths, strict=True)
    return [score(task_type, output, truth, config) for task_type, output, truth in triples]


def is_success(value: float, threshold: float = SUCCESS_THRESHOLD) -> bool:
    """Whether an accuracy counts as a right answer."""
    return value > threshold
