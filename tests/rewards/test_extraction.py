"""Finding the answer, and the format reward."""

import pytest

from resadapt_jax.rewards import extract_answer, extract_passage, format_reward


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("B", "B"),
        ("  B \n", "B"),
        ("", ""),
        ("\n \n", ""),
        ("one\ntwo\n\n", "two"),
        # the reasoning never counts, not even a box in it
        ("<think>\\boxed{A}</think>B", "B"),
        ("<think>it is A</think> hm, no </think>\nC", "C"),
        ("<think>never closed, the answer is D", "D"),
        ("<think>all of it</think>", ""),
        # the first answer block
        ("<think>x</think><answer>B</answer>", "B"),
        ("<answer>B</answer><answer>C</answer>", "B"),
        ("<think>x</think> so <answer>\n B \n</answer> bye", "B"),
        ("<answer>B", "B"),
        ("<answer></answer>C", ""),
        ("B</answer>", "B</answer>"),
        # the last box, braces balanced
        ("\\boxed{A} then \\boxed{B}", "B"),
        ("<answer>the answer is \\boxed{7}</answer>", "7"),
        ("\\boxed{\\frac{1}{2}} done", "\\frac{1}{2}"),
        ("\\boxed{}", ""),
        ("\\boxed{never closed", "\\boxed{never closed"),
        ("\\boxed{A} and the answer is B", "A"),
        # the last cue
        ("The answer is B", "B"),
        ("the answer is: C.", "C."),
        ("Answer: 5\nI am sure", "5"),
        ("Answer：5", "5"),
        ("First answer is A\nFinal Answer is B\nbye", "B"),
        ("The answers are A and C", "A and C"),
        ("Answer:\n\n  D\nbye", "D"),
        ("答案是 B", "B"),
        ("所以答案为：12", "12"),
        ("the answer is", "the answer is"),
        ("it answers: 3", "3"),
        ("a nonanswer is no cue\nE", "E"),
    ],
)
def test_extract_answer(output, answer):
    assert extract_answer(output) == answer


@pytest.mark.parametrize(
    ("output", "passage"),
    [
        ("from 3 to 7", "from 3 to 7"),
        ("a\nb", "a\nb"),
        ("<think>1 to 2</think>\n3 to\n4", "3 to\n4"),
        ("<answer>3 to 4</answer> 5 to 6", "3 to 4"),
        ("```json\n[3, 4]\n```", "[3, 4]"),
        ("So \\boxed{[3, 4]}", "[3, 4]"),
        ("the answer is here:\n3 to 4", "the answer is here:\n3 to 4"),
    ],
)
def test_extract_passage(output, passage):
    assert extract_passage(output) == passage


@pytest.mark.parametrize(
    ("output", "reward"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        (" \n<think>a\n\n</think>\n\n <answer>\nb</answer>\n", 1.0),
        ("<think></think><answer></answer>", 1.0),
        # content may hold anything, more blocks included
        ("<think>a</think><think>b</think><answer>c</answer>", 1.0),
        ("B", 0.0),
        ("", 0.0),
        ("<answer>b</answer>", 0.0),
        ("<think>a</think>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a</think> so <answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer> bye", 0.0),
        ("hm <think>a</think><answer>b</answer>", 0.0),
        ("<think>a<answer>b</answer>", -1.0),
        ("a</think><answer>b</answer>", -1.0),
        ("<think>a</think><answer>b", -1.0),
        ("<think><think>a</think><answer>b</answer>", -1.0),
    ],
)
def test_format_reward(output, reward):
    assert format_reward(output) == reward


def test_the_papers_format_asks_for_a_box():
    boxed, plain = (
        "<think>a</think><answer>\\boxed{b}</answer>",
        "<think>a</think><answer>b</answer>",
    )
    in_thought = "<think>\\boxed{b}</think><answer>b</answer>"
    assert format_reward(boxed, require_boxed=True) == 1.0
    assert format_reward(plain, require_boxed=True) == 0.0
    assert format_reward(in_thought, require_boxed=True) == 0.0
