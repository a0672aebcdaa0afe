"""From what a model wrote to its reward."""

from resadapt_jax.errors import UserError
from resadapt_jax.rewards.config import DEFAULT, RewardConfig
from resadapt_jax.rewards.extraction import MAX_ANSWER_CHARS, extract_answer, extract_passage
from resadapt_jax.rewards.formatting import format_reward
from resadapt_jax.rewards.results import Score
from resadapt_jax.rewards.task_type import TaskType
from resadapt_jax.rewards.tasks import TASKS
from resadapt_jax.rewards.text import brief, plain


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
    found = config.task_of(task)
    grader = TASKS[found].grader(config)
    answer = extract_passage(output) if grader.spans_lines else extract_answer(output)
    grade = grader.grade(answer, extract_passage(truth))
    form = format_reward(output, config.format, config.malformed)
    return Score(
        accuracy=grade.accuracy,
        format=form,
        total=grade.accuracy + config.format_weight * form,
        task=found,
        extracted=grade.extracted,
        reason=grade.reason,
        parts=grade.parts,
        decided=grade.decided,
    )


def check_truth(
    task: TaskType | str | None, truth: str, config: RewardConfig = DEFAULT
) -> str | None:
    """Why no answer could be graded against ``truth``, None if answers can.

    An unknown task type is a reason as well. For the loading of data, row by row: cheap, and it
    never raises.
    """
    try:
        grader = TASKS[config.task_of(task)].grader(config)
    except UserError as error:
        return str(error)
    if not isinstance(truth, str):
        return f"a ground truth is text, got {type(truth).__name__}"
    if not plain(truth).strip():
        return "the ground truth is empty"
    if len(truth) > MAX_ANSWER_CHARS:
        return f"the ground truth is longer than {MAX_ANSWER_CHARS} characters"
    expected = extract_passage(truth)
    return grader.fault(expected) if expected else f"no answer in ground truth {brief(truth)}"
