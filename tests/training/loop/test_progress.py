"""Progress: a bar on a terminal, few lines elsewhere."""

import io

import pytest

from resadapt_jax.training.loop.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_line_every_interval_and_at_the_end():
    file, clock = io.StringIO(), Clock()
    with Progress(100, initial=40, description="train", file=file, clock=clock) as progress:
        for done in range(41, 101):
            clock.now += 10.0 if done == 41 else 2.0  # the first one compiles
            progress.update(done, reward=0.123456, retention=0.25)
    lines = file.getvalue().splitlines()
    # 10 s and 10 steps of 2 s, then 30 s at 2 s are 15 steps: lines at 51, 66, 81, 96 and the last.
    # 49 steps of 2 s are left at the first. With the first step counted it would say 02:13, with
    # the 40 of the earlier process 00:28.
    assert lines[0] == "train 51/100 reward=0.123 retention=0.25 left 01:38"
    done = [line.split()[1] for line in lines]
    assert done == ["51/100", "66/100", "81/100", "96/100", "100/100"]
    assert lines[-1].endswith("left 00:00")


def test_the_first_step_says_nothing_of_those_to_come():
    file, clock = io.StringIO(), Clock()
    with Progress(3, file=file, clock=clock) as progress:
        clock.now += 60.0
        progress.update(1)
    assert file.getvalue() == "1/3\n"


def test_a_bar_with_scalars_on_a_terminal():
    file = Terminal()
    with Progress(10, initial=4, description="train", file=file) as progress:
        progress.update(10, reward=0.5, retention=0.25)
    text = file.getvalue()
    assert "train" in text and "10/10" in text
    assert "reward=0.5, retention=0.25" in text


def test_an_interrupted_bar_leaves_a_clean_line():
    file = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(10, file=file) as progress:
        progress.update(3)
        raise KeyboardInterrupt
    text = file.getvalue()
    assert "3/10" in text and text.endswith("\n")
