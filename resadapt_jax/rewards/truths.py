"""Whether a ground truth can be graded against, to be asked before training starts."""

from resadapt_jax.errors import UserError
from resadapt_jax.rewards.extraction import MAX_ANSWER_CHARS, extract_passage
from resadapt_jax.rewards.grounding_qa import split_grounded
from resadapt_jax.rewards.mathematics import is_worded, refusal, to_latex
from resadapt_jax.rewards.numeric import parse_number
from resadapt_jax.rewards.open_ended import has_words
from resadapt_jax.rewards.quantity import parse_quantity
from resadapt_jax.rewards.scoring import DEFAULT, RewardConfig, graded_as, task_type
from resadapt_jax.rewards.tasks import TaskType
from resadapt_jax.rewards.temporal import parse_intervals
from resadapt_jax.rewards.text import brief, plain


def check_truth(
    task: TaskType | str | None, truth: str, config: RewardConfig = DEFAULT
) -> str | None:
    """Why no answer could be graded against ``truth``, None if answers can.

    An unknown task type is a reason as well. For the loading of data, row by row: cheap, and it
    never raises.
    """
    try:
        rule = graded_as(task_type(task, config), config)
    except UserError as error:
        return str(error)
    if not isinstance(truth, str):
        return f"a ground truth is text, got {type(truth).__name__}"
    if not plain(truth).strip():
        return "the ground truth is empty"
    if len(truth) > MAX_ANSWER_CHARS:
        return f"the ground truth is longer than {MAX_ANSWER_CHARS} characters"
    expected = extract_passage(truth)
    if not expected:
        return f"no answer in ground truth {brief(truth)}"
    return _unreadable(rule, expected, config)


def _unreadable(rule: TaskType, truth: str, config: RewardConfig) -> str | None:
    match rule:
        case TaskType.NUMERICAL if config.numerical == "paper":
            return None if _is_number(truth) else f"no one number in ground truth {brief(truth)}"
        case TaskType.REGRESSION:
            return None if _is_number(truth) else f"no one number in ground truth {brief(truth)}"
        case TaskType.MATHEMATICS:
            return _no_mathematics(truth, config)
        case TaskType.OPEN_ENDED:
            words = has_words(truth, config.open_ended)
            return None if words else f"no words in ground truth {brief(truth)}"
        case TaskType.TEMPORAL_GROUNDING:
            return _no_interval(truth)
        case TaskType.GROUNDING_QA:
            answer, times = split_grounded(truth)
            return _no_interval(times) if answer else f"no answer in ground truth {brief(truth)}"
    return None


def _is_number(truth: str) -> bool:
    return parse_number(truth) is not None


def _no_mathematics(truth: str, config: RewardConfig) -> str | None:
    if parse_quantity(truth) is not None:
        return None
    if config.mathematics == "released":
        return f"no plain number in ground truth {brief(truth)}"
    latex = to_latex(truth)
    why_not = None if is_worded(latex) else refusal(latex)
    return why_not and f"ground truth {brief(truth)}: {why_not}"


def _no_interval(truth: str) -> str | None:
    intervals = parse_intervals(truth)
    if not intervals:
        return f"no interval in ground truth {brief(truth)}"
    if all(start == end for start, end in intervals):
        return f"no interval of any length in ground truth {brief(truth)}"
    if min(start for start, _ in intervals) < 0:
        return f"an interval before the clip in ground truth {brief(truth)}"
    return None
