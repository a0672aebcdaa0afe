"""Finding the answer in what was written."""

import pytest
from reward_tables import HOSTILE

from resadapt_jax.rewards import extract_answer, extract_passage


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
        # of nested blocks the innermost
        ("<answer><answer>B</answer></answer>", "B"),
        ("<answer>A<answer>B</answer></answer>", "B"),
        ("<answer>A<answer>B", "B"),
        ("<answer>A</answer><answer>B", "A"),
        ("<think><answer>A</answer></think><answer>B</answer>", "B"),
        ("<think><think>A</think>C</think>B", "B"),
        ("B</answer>", "B</answer>"),
        # the last box, braces balanced
        ("\\boxed{A} then \\boxed{B}", "B"),
        ("<answer>the answer is \\boxed{7}</answer>", "7"),
        ("\\boxed{\\frac{1}{2}} done", "\\frac{1}{2}"),
        ("\\boxed{}", ""),
        ("\\boxed{\\boxed{7}}", "7"),
        ("\\boxed{{7}}", "{7}"),
        ("\\boxed{\\text{a {b} c}}", "\\text{a {b} c}"),
        ("\\boxed{7}}", "7"),
        ("\\boxed{never closed", "\\boxed{never closed"),
        ("\\boxed{A} and the answer is B", "A"),
        # the last cue
        ("The answer is B", "B"),
        ("the answer is: C.", "C."),
        ("The answer isn't obvious.\nB", "B"),
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
        # reasoning that breaks off
        ("<think>0 to 1, 1 to 2, 2 to", ""),
        ("3 to 4 <think>0 to 1", "3 to 4"),
        ("<think>0 to 1 <answer>3 to 4</answer>", "3 to 4"),
        ("```json\n[3, 4]\n```", "[3, 4]"),
        ("So \\boxed{[3, 4]}", "[3, 4]"),
        ("the answer is here:\n3 to 4", "the answer is here:\n3 to 4"),
    ],
)
def test_extract_passage(output, passage):
    assert extract_passage(output) == passage


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for output in (text, f"<answer>{text}", f"\\boxed{{{text}}}"):
        assert len(extract_answer(output)) <= 4096
        assert len(extract_passage(output)) <= 4096
