"""What graders and scoring hand back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from resadapt_jax.rewards.task_type import TaskType

SUCCESS_THRESHOLD = 0.35


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grade:
    """How right one answer is, and why.

    Attributes:
      accuracy: in [0, 1].
      reason: what was compared with what, on one short line.
      extracted: what of the answer was compared.
      parts: where a kind is graded by several things, what each came to.
      decided: false where grading gave up; accuracy is then 0 and means nothing.
    """

    accuracy: float
    reason: str
    extracted: str
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    decided: bool = True


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
      decided: false where grading gave up; accuracy is then 0 and means nothing.
    """

    accuracy: float
    format: float
    total: float
    task: TaskType
    extracted: str
    reason: str
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    decided: bool = True


def is_success(accuracy: float, threshold: float = SUCCESS_THRESHOLD) -> bool:
    """Whether an accuracy counts as a right answer: above the threshold, not at it."""
    return accuracy > threshold


def to_record(scored: Score) -> dict[str, Any]:
    """A score as JSON has it; ``from_record`` gives it back."""
    return {**dataclasses.asdict(scored), "task": scored.task.value}


def from_record(record: Mapping[str, Any]) -> Score:
    return Score(**{**record, "task": TaskType(record["task"])})
