"""What to ask of a model so that its answers can be graded.

An instruction goes after the question. In ``reasoning`` mode the model thinks before it answers, as
the format reward wants it (ResAdapt's table 6 in our words); in ``direct`` mode it gives the answer
alone.
"""

from typing import Literal

from resadapt_jax.rewards.tasks import TaskType

SYSTEM_PROMPT = "You are a helpful assistant."
"""The paper's system turn, in both modes."""

_REASONING = (
    "Think about it first: put all of your thoughts between <think> and </think>. Then put the "
    "final answer, in \\boxed{{}}, between <answer> and </answer>, and nothing before, between or "
    "after the two blocks. The box holds {answer}."
)
_DIRECT = "Reply with {answer}, and nothing else."
_ANSWERS = {
    TaskType.MULTIPLE_CHOICE: "the letter of the right option",
    TaskType.NUMERICAL: "one number",
    TaskType.MATHEMATICS: "the final number or expression",
    TaskType.OCR: "the text that you read, letter by letter as it is written",
    TaskType.OPEN_ENDED: "the answer in one or two sentences",
    TaskType.FREE_FORM: "the answer in one or two sentences",
    TaskType.REGRESSION: "one number",
    TaskType.TEMPORAL_GROUNDING: (
        "when it starts and when it ends as [start, end], in seconds with one decimal"
    ),
    TaskType.GROUNDING_QA: (
        "the answer and the moment that shows it as answer <> [start, end], the times in seconds "
        "with one decimal and the answer by its letter where there are options"
    ),
    TaskType.EXACT_MATCH: "the answer in as few words as possible",
    TaskType.GENERAL: "the answer in as few words as possible",
}


def instruction(mode: Literal["reasoning", "direct"], task: TaskType | str | None) -> str:
    """How to answer a question of this type, for the end of the user's turn.

    Raises:
      ValueError: another mode.
      UserError: an unknown task type.
    """
    if mode not in ("reasoning", "direct"):
        raise ValueError(f"mode must be reasoning or direct, got {mode!r}")
    template = _REASONING if mode == "reasoning" else _DIRECT
    return template.format(answer=_ANSWERS[TaskType(task)])
