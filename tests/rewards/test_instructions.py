"""Instructions, and that who follows them gets full marks."""

import pytest

from resadapt_jax.errors import UserError
from resadapt_jax.rewards import RewardConfig, TaskType, instruction, score

STRICT = RewardConfig(multiple_choice="paper", format="paper")

# The truth, and the answer that does as the instruction says.
IDEAL = {
    TaskType.MULTIPLE_CHOICE: ("B", "B"),
    TaskType.NUMERICAL: ("7", "7"),
    TaskType.MATHEMATICS: ("\\frac{1}{2}", "\\frac{1}{2}"),
    TaskType.OCR: ("STOP\nahead", "STOP\nahead"),
    TaskType.OPEN_ENDED: ("A dog runs across the road.", "A dog runs across the road."),
    TaskType.FREE_FORM: ("A dog runs across the road.", "A dog runs across the road."),
    TaskType.REGRESSION: ("3.5", "3.5"),
    TaskType.TEMPORAL_GROUNDING: ("[[3, 7]]", "[3.0, 7.0]"),
    TaskType.GROUNDING_QA: ('{"answer": "B", "interval": [[3, 7]]}', "B <> [3.0, 7.0]"),
    TaskType.EXACT_MATCH: ("red sign", "red sign"),
    TaskType.GENERAL: ("red sign", "red sign"),
}


@pytest.mark.parametrize("task", TaskType)
def test_the_answer_that_reasoning_mode_asks_for(task):
    prompt = instruction("reasoning", task)
    for mark in ("<think>", "</think>", "<answer>", "</answer>", "\\boxed{}"):
        assert prompt.count(mark) == 1
    truth, answer = IDEAL[task]
    # as the prompt says: thoughts, then the answer in its box, and nothing else
    output = f"<think>Let me see.</think>\n<answer>\\boxed{{{answer}}}</answer>"
    result = score(task, output, truth, STRICT)
    assert (result.accuracy, result.format) == (1.0, 1.0), result.reason


@pytest.mark.parametrize("task", TaskType)
def test_the_answer_that_direct_mode_asks_for(task):
    prompt = instruction("direct", task)
    assert "<think>" not in prompt and "boxed" not in prompt
    truth, answer = IDEAL[task]
    result = score(task, answer, truth, STRICT)
    assert (result.accuracy, result.format) == (1.0, 0.0), result.reason


def test_both_modes_say_what_the_answer_is():
    for mode in ("reasoning", "direct"):
        assert "letter of the right option" in instruction(mode, "multiple-choice")
        assert "[start, end], in seconds with one decimal" in instruction(mode, "iou")
        assert "answer <> [start, end]" in instruction(mode, "gqa")
        assert "one number" in instruction(mode, "numerical")


def test_the_instruction_itself_is_no_answer():
    """A model that repeats its prompt earns nothing."""
    for task in TaskType:
        output = instruction("reasoning", task)
        assert score(task, output, IDEAL[task][0], STRICT).accuracy < 0.35


def test_mistakes():
    with pytest.raises(ValueError, match="mode must be reasoning or direct, got 'thinking'"):
        instruction("thinking", "math")
    with pytest.raises(UserError, match="juggling"):
        instruction("direct", "juggling")
