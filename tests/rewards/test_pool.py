"""Scoring over processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resadapt_jax.errors import UserError
from resadapt_jax.rewards import RewardConfig, ScoringPool, score, shared_pool
from resadapt_jax.rewards import pool as pool_module

ROOT = Path(__file__).resolve().parents[2]

ROWS = [
    ("multiple choice", "<think>A</think><answer>\\boxed{B}</answer>", "B"),
    ("multiple choice", "A or B", "B"),
    ("numerical", "There are 7", "7"),
    ("iou", "5 to 9", "[3, 7]"),
    ("gqa", "B <> [5, 9]", "B <> [3, 7]"),
    ("ocr", "STOP \ud800 here", "STOP there"),
    ("regression", "110", "100"),
    ("exact_match", "<think>", "dog"),
    (None, "Yes, it is", "yes"),
    ("math", "\\boxed{1/2}", "0.5"),
]


@pytest.fixture(scope="module")
def pool():
    with ScoringPool(2) as pool:
        yield pool


def many(count):
    """Rows in which no two answers are alike."""
    rows = [ROWS[index % len(ROWS)] for index in range(count)]
    return [(task, f"{output} {index}", truth) for index, (task, output, truth) in enumerate(rows)]


def processes(pool):
    children = [pool._idle.get() for _ in range(pool._num_workers)]
    for child in children:
        pool._idle.put(child)
    return [child.process for child in children if child is not None]


def test_scores_are_those_of_one_process_in_order(pool):
    rows = [*ROWS, *many(120)]
    config = RewardConfig(multiple_choice="paper", format_weight=0.5)
    expected = [score(*row, config) for row in rows]
    counts = []
    scores = pool.score_batch(*zip(*rows, strict=True), config, on_scored=counts.append)
    assert scores == expected
    assert sum(counts) == len(rows)
    # they are not all alike, or order would not show
    assert len({one.reason for one in scores}) > 50


def test_processes_stay_for_the_next_batch(pool):
    pool.score_batch(*zip(*many(100), strict=True))
    before = [process.pid for process in processes(pool)]
    pool.score_batch(*zip(*many(100), strict=True))
    assert sorted(process.pid for process in processes(pool)) == sorted(before)
    assert os.getpid() not in before and len(set(before)) == 2


def test_an_empty_batch(pool):
    assert pool.score_batch([], [], []) == []


def test_without_workers_it_scores_here():
    with ScoringPool(0) as pool:
        assert pool.score_batch(*zip(*ROWS, strict=True)) == [score(*row) for row in ROWS]
        assert processes(pool) == []


def test_mistakes_are_told_before_anything_is_scored(pool):
    with pytest.raises(UserError, match="juggling"):
        pool.score_batch(["numerical", "juggling"], ["7", "7"], ["7", "7"])
    with pytest.raises(ValueError):
        pool.score_batch(["numerical"], ["7", "7"], ["7"])
    with pytest.raises(ValueError, match="num_workers must not be negative"):
        ScoringPool(-1)


def test_closing_ends_the_processes():
    with ScoringPool(1) as pool:
        pool.score_batch(*zip(*ROWS[:3], strict=True))
        [process] = processes(pool)
        assert process.poll() is None
    assert process.poll() is not None


@pytest.fixture
def deadly(monkeypatch):
    monkeypatch.setattr(pool_module, "_MODULE", "deadly_process")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with ScoringPool(1) as pool:
        yield pool


def accuracies(pool, outputs):
    scores = pool.score_batch(["numerical"] * len(outputs), outputs, ["7"] * len(outputs))
    return [one.accuracy for one in scores], [one.reason for one in scores]


def test_an_answer_that_ends_two_processes_counts_as_wrong(deadly):
    values, reasons = accuracies(deadly, ["7", "die", "8", "7", "die", "die", "7"])
    assert values == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert reasons[1] == "not graded: two processes died of it, exit code 3"
    assert reasons[2] == "8 ≠ 7"
    assert accuracies(deadly, ["7"])[0] == [1.0]


def test_an_answer_that_happens_to_be_there_when_one_ends_is_graded_again(deadly, tmp_path):
    values, reasons = accuracies(deadly, ["7", f"die once {tmp_path / 'died'}", "7"])
    assert values == [1.0, 0.0, 1.0]
    assert not reasons[1].startswith("not graded")


def test_a_process_that_hangs_is_ended(deadly, monkeypatch):
    accuracies(deadly, ["7"])
    monkeypatch.setattr(pool_module, "_PATIENCE", 0.2)
    values, reasons = accuracies(deadly, ["sleep"])
    assert values == [0.0]
    assert reasons == ["not graded: two processes died of it, no reply in 0.2 s"]


def test_a_process_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(pool_module, "_MODULE", "no_such_module")
    with ScoringPool(1) as pool, pytest.raises(RuntimeError, match="no_such_module did not start"):
        accuracies(pool, ["7"])


def test_a_size_has_one_shared_pool():
    assert shared_pool(0) is shared_pool(0)
    assert shared_pool(0) is not shared_pool(3)


PROGRAM = """
import sys
from resadapt_jax.rewards import shared_pool
print("started")
scores = shared_pool(1).score_batch(["numerical", "math"], ["7", "x+1"], ["7", "1+x"])
print([one.accuracy for one in scores], "jax" in sys.modules)
"""


def test_a_script_needs_no_guard_and_leaves_nothing_behind(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error::ResourceWarning", str(program)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    # run() returns when no process holds its pipes any more
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n[1.0, 1.0] False\n", "")
