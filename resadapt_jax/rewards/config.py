"""Where gradings differ, and what is rewarded beside a right answer."""

import dataclasses
import math
from typing import Literal, get_type_hints

from resadapt_jax.errors import UserError
from resadapt_jax.rewards.task_type import TaskType

Form = Literal["paper", "released"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Where paper and released code differ, and what is rewarded beside a right answer.

    Attributes:
      multiple_choice: ``"paper"`` is equality of the letters, ``"released"`` their F1.
      numerical: ``"paper"`` is the tolerance alone; ``"released"`` gives what is not within it to
        the general matcher.
      mathematics: ``"paper"`` is the tolerance for numbers and a checker for expressions; in
        ``"released"`` whatever is not a plain number is wrong.
      open_ended: ``"paper"`` is ROUGE-L, ``"released"`` the mean of ROUGE-1, ROUGE-2 and ROUGE-L.
      free_form: ``"paper"`` grades as open-ended, ``"released"`` by the general matcher, where the
        released code ends up.
      temporal_grounding: ``"paper"`` takes the best pair of intervals, made less where the answer
        names more of them than the truth, which the paper does not say but would reward naming
        many; ``"released"`` reads only the first one of the answer, and no clock times.
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

    multiple_choice: Form = "paper"
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
        for name in ("format_weight", "malformed", "maths_seconds"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        for name in ("format_weight", "overlong_buffer", "num_workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.maths_seconds <= 0:
            raise ValueError(f"maths_seconds must be positive, got {self.maths_seconds}")
        if self.default_task:
            TaskType(self.default_task)

    def task_of(self, label: str | None) -> TaskType:
        """The task type that a label of the data names; `default_task` for unknown ones.

        Raises:
          UserError: an unknown label, and no default.
        """
        try:
            return TaskType(label)
        except UserError:
            if not self.default_task:
                raise
            return TaskType(self.default_task)


DEFAULT = RewardConfig()
