"""The loop: a run killed at any step ends where an undisturbed one does."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.config import from_json
from resadapt_jax.errors import UserError
from resadapt_jax.training.loop import run
from resadapt_jax.training.metrics import read_metrics
from resadapt_jax.training.run_config import RunConfig
from resadapt_jax.training.step import StepResult


@dataclass(frozen=True, kw_only=True)
class SmallEvaluation:
    num_clips: int = 8


RUN = RunConfig(checkpoint_every=2, best_metric="w")


@dataclass(frozen=True, kw_only=True)
class SmallConfig:
    rate: float = 0.5
    decay: float = 0.1
    output_dir: str = "here"
    run: RunConfig = RUN
    evaluation: SmallEvaluation = SmallEvaluation()


def batches():
    return iter(grain.MapDataset.range(100).to_iter_dataset())


def fresh():
    return {"w": jnp.zeros(()), "key": jax.random.key(0)}


@jax.jit
def update(state, x):
    noise = jax.random.normal(jax.random.fold_in(state["key"], x))
    w = 0.9 * state["w"] + 0.1 * x + noise
    return {"w": w, "key": state["key"]}, {"w": w}


def step(state, x):
    return StepResult(*update(state, x))


def go(directory, *, stop_before=None, num_steps=9, config=SmallConfig()):
    def maybe_stop(state, x):
        if stop_before is not None and x == stop_before:
            raise RuntimeError("killed")
        return step(state, x)

    return run(
        fresh(),
        batches(),
        maybe_stop,
        config=config,
        output_dir=directory,
        num_steps=num_steps,
        finite=("w",),
        shown=("w",),
        description="test",
    )


@pytest.mark.parametrize("killed_at", [0, 1, 5, 8])
def test_a_killed_run_ends_where_an_undisturbed_one_does(tmp_path, killed_at):
    expected = go(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        go(tmp_path / "cut", stop_before=killed_at)
    resumed = go(tmp_path / "cut")
    assert np.asarray(resumed["w"]) == np.asarray(expected["w"])  # bit for bit
    whole, cut = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut"))
    assert [(r["step"], r["w"]) for r in cut] == [(r["step"], r["w"]) for r in whole]
    assert [record["step"] for record in cut] == list(range(1, 10))


def test_a_finished_run_is_not_run_again(tmp_path):
    expected = go(tmp_path)

    def never(state, x):
        raise AssertionError("the run was finished")

    again = run(
        fresh(),
        batches(),
        never,
        config=SmallConfig(),
        output_dir=tmp_path,
        num_steps=9,
        finite=("w",),
        shown=("w",),
        description="test",
    )
    assert again["w"] == expected["w"]


def test_another_config_is_refused_by_all_that_changed(tmp_path):
    go(tmp_path, num_steps=2)
    with pytest.raises(UserError) as caught:
        go(tmp_path, config=SmallConfig(rate=0.25, decay=0.2, output_dir="there"))
    assert "another config (rate: 0.5 -> 0.25; decay: 0.1 -> 0.2);" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_changes_nothing_of_the_training_may_change(tmp_path):
    expected = go(tmp_path / "whole")
    go(tmp_path / "cut", num_steps=2)
    evaluation = SmallEvaluation(num_clips=16)
    moved = SmallConfig(output_dir="there", run=replace(RUN, keep_last=3), evaluation=evaluation)
    assert go(tmp_path / "cut", config=moved)["w"] == expected["w"]
    saved = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert saved["evaluation"] == {"num_clips": 16}


def test_the_config_is_written(tmp_path):
    go(tmp_path, num_steps=1)
    assert from_json((tmp_path / "config.json").read_text(), SmallConfig) == SmallConfig()


INTERRUPTED = """
import sys, time
sys.path.insert(0, {tests!r})
import test_loop
slow = test_loop.step
def step(state, x):
    print("step", int(x), flush=True)
    time.sleep(0.2)
    return slow(state, x)
test_loop.step = step
test_loop.go({directory!r})
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_and_resumes(tmp_path, number):
    code = INTERRUPTED.format(tests=os.path.dirname(__file__), directory=str(tmp_path / "cut"))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("step 2"):
            break
    time.sleep(0.05)  # inside the third step
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    (line,) = [line for line in told.splitlines() if line.startswith("stopping: ")]
    assert "finishing the step in progress and saving; press again to stop at once" in line
    done = [record["step"] for record in read_metrics(tmp_path / "cut" / "metrics.jsonl")]
    assert done == [1, 2, 3]  # the step in progress was finished and saved
    assert go(tmp_path / "cut")["w"] == go(tmp_path / "whole")["w"]
