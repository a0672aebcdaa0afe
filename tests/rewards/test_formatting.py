"""The format reward."""

import pytest
from reward_tables import HOSTILE, rows

from resadapt_jax.rewards import format_reward


@pytest.mark.parametrize(
    ("output", "released", "paper"),
    rows(
        ("<think>a</think><answer>\\boxed{b}</answer>", 1, 1, "both blocks and a box"),
        ("<think>a</think><answer>b</answer>", 1, 0, "no box"),
        ("<think>\\boxed{b}</think><answer>b</answer>", 1, 0, "a box in the thought"),
        ("<think>a</think><answer>so \\boxed{b}.</answer>", 1, 1, "a box among words"),
        ("<think>a</think><answer>\\boxed{\\frac{1}{2}}</answer>", 1, 1, "braces in the box"),
        ("<think>a</think><answer>\\boxed{b</answer>", 1, 0, "a box that is not closed"),
        ("<think>a</think><answer>\\boxed b</answer>", 1, 0, "a box without braces"),
        ("<think>a</think><answer>\\boxed{}</answer>", 1, 0, "an empty box"),
        (
            "<think>a</think><answer>\\boxed{ \n} and more</answer>",
            1,
            0,
            "words beside an empty box",
        ),
        ("<think>a</think><answer>\\boxed{b} \\boxed{}</answer>", 1, 0, "an empty box at last"),
        ("<think></think><answer>\\boxed{b}</answer>", 1, 1, "an empty thought"),
        ("<think></think><answer></answer>", 1, 0, "two empty blocks"),
        (" \n<think>a\n\n</think>\n\n <answer>\n\\boxed{b}</answer>\n", 1, 1, "spaces between"),
        ("<think>a</think><think>b</think><answer>\\boxed{c}</answer>", 1, 0, "two thoughts"),
        ("<think>a</think><answer>\\boxed{b}</answer><answer>c</answer>", 1, 0, "two answers"),
        ("<think>a<think>b</think></think><answer>\\boxed{c}</answer>", 1, 0, "a thought inside"),
        ("<think>a</think><answer><answer>\\boxed{b}</answer></answer>", 1, 0, "an answer inside"),
        ("<think><answer>a</answer></think><answer>\\boxed{b}</answer>", 1, 0, "one in a thought"),
        ("<think>a</think><answer>\\boxed{b}<think></think></answer>", 1, 0, "a thought within"),
        ("B", 0, 0, "no tags"),
        ("", 0, 0, "nothing"),
        ("\\boxed{B}", 0, 0, "only a box"),
        ("<answer>\\boxed{b}</answer>", 0, 0, "no thought"),
        ("<think>a</think>", 0, 0, "no answer"),
        ("<answer>\\boxed{b}</answer><think>a</think>", 0, 0, "the wrong order"),
        ("<think>a</think> so <answer>\\boxed{b}</answer>", 0, 0, "words between"),
        ("<think>a</think><answer>\\boxed{b}</answer> bye", 0, 0, "words after"),
        ("hm <think>a</think><answer>\\boxed{b}</answer>", 0, 0, "words before"),
        ("<THINK>a</THINK><ANSWER>\\boxed{b}</ANSWER>", 0, 0, "tags in capitals"),
        ("<think >a</think ><answer>\\boxed{b}</answer>", 0, 0, "spaces in a tag"),
        ("</think><think></answer><answer>", 0, 0, "as many closed as opened, the wrong way round"),
        ("<think>a<answer>\\boxed{b}</answer>", -1, -1, "a thought that is not closed"),
        ("a</think><answer>\\boxed{b}</answer>", -1, -1, "a thought that is not opened"),
        ("<think>a</think><answer>\\boxed{b}", -1, -1, "an answer that is not closed"),
        ("<think>a</think>\\boxed{b}</answer>", -1, -1, "an answer that is not opened"),
        ("<think><think>a</think><answer>\\boxed{b}</answer>", -1, -1, "one of two not closed"),
        ("<answer>", -1, -1, "a tag alone"),
        ("the tag <think> starts a thought", -1, -1, "a tag that is talked about"),
    ),
)
def test_format_reward(output, released, paper):
    assert format_reward(output) == released
    assert format_reward(output, "paper") == paper


def test_the_penalty_can_be_chosen():
    assert format_reward("<think>", "paper", malformed=0.0) == 0.0
    assert format_reward("<think>", "released", malformed=-0.5) == -0.5
    assert format_reward("B", "paper", malformed=-0.5) == 0.0


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_makes_it_raise(text):
    for form in ("paper", "released"):
        assert format_reward(text, form) in (-1.0, 0.0, 1.0)
