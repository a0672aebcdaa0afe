"""What to ask of a model so that its answers can be graded.

An instruction goes after the question. In ``reasoning`` mode the model thinks before it answers, as
the format reward wants it (ResAdapt's table 6 in our words); in ``direct`` mode it gives the answer
alone.
"""

from typing import Literal

from resadapt_jax.rewards.task_type import TaskType
from resadapt_jax.rewards.tasks import TASKS

_REASONING = (
    "Think about it first: put all of your thoughts between <think> and </think>. Then put the "
    "final answer, in \\boxed{{}}, between <answer> and </answer>, and nothing before, between or "
    "after the two blocks. The box holds {answer}."
)
_DIRECT = "Reply with {answer}, and nothing else."


def instruction(mode: Literal["reasoning", "direct"], task: TaskType | str | None) -> str:
    """How to answer a question of this type, for the end of the user's turn.

    Raises:
      ValueError: another mode.
      UserError: an unknown task type.
    """
    if mode not in ("reasoning", "direct"):
        raise ValueError(f"mode must be reasoning or direct, got {mode!r}")
    template = _REASONING if mode == "reasoning" else _DIRECT
    return template.format(answer=TASKS[TaskType(task)].wanted)
