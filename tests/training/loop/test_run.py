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
from resadapt_jax.training.loop.interrupt import StopRequest
from resadapt_jax.training.loop.metric_log import read_metrics
from resadapt_jax.training.loop.protocols import StepResult
from resadapt_jax.training.loop.resume import replay, save_batch
from resadapt_jax.training.loop.run import check_export_step, run
from resadapt_jax.training.loop.run_config import RunConfig


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
import test_run
from resadapt_jax.errors import run_cli
slow = test_run.step
def step(state, x):
    print("step", int(x), flush=True)
    time.sleep(0.2)
    return slow(state, x)
test_run.step = step
sys.exit(run_cli(lambda: test_run.go({directory!r})))
"""


@pytest.mark.parametrize(
    ("number", "code", "last"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 0, "terminated: saved after step 3 of 9; the same command goes on"),
    ],
)
def test_asked_to_stop_it_saves_and_resumes(tmp_path, number, code, last):
    program = INTERRUPTED.format(tests=os.path.dirname(__file__), directory=str(tmp_path / "cut"))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("step 2"):
            break
    time.sleep(0.05)  # inside the third step
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert told.splitlines()[-1] == last
    (line,) = [line for line in told.splitlines() if line.startswith("stopping: ")]
    assert "finishing the step in progress and saving; press again to stop at once" in line
    done = [record["step"] for record in read_metrics(tmp_path / "cut" / "metrics.jsonl")]
    assert done == [1, 2, 3]  # the step in progress was finished and saved
    assert go(tmp_path / "cut")["w"] == go(tmp_path / "whole")["w"]


def saved(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir())


def test_the_best_checkpoint_is_by_the_mean_since_the_one_before(tmp_path, monkeypatch):
    # Means of the steps 1-2, 3-4, 5-6, 7-8 and 9: step 8 has the highest value, 4 the best mean.
    score = iter([0.0, 1.0, None, 5.0, 0.0, 1.0, -9.0, 9.0, 0.0])

    def scored(state, x):
        value = next(score)
        return StepResult(state, {"w": 0.0} | ({} if value is None else {"score": value}))

    monkeypatch.setattr(sys.modules[__name__], "step", scored)
    go(tmp_path, config=SmallConfig(run=replace(RUN, keep_last=1, best_metric="score")))
    assert saved(tmp_path) == [4, 9]


def test_a_best_metric_that_no_step_has_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match="run.best_metric is score, but a step logs .*, w$"):
        go(tmp_path, config=SmallConfig(run=replace(RUN, best_metric="score")))
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] <= 2
    go(tmp_path, config=SmallConfig(run=replace(RUN, best_metric="score", keep_best=0)))


def diverging(at):
    """The loss of the step that sees batch ``at`` is infinite, and so is all after it."""

    def diverge(state, x):
        result = step(state, x)
        w = jnp.where(x["index"] == at, jnp.inf, result.state["w"])
        return StepResult(result.state | {"w": w}, {"w": w})

    def step(state, x):
        return StepResult(*update(state, x["index"]))

    return diverge


def records():
    dataset = grain.MapDataset.range(100).map(lambda x: {"index": np.int64(x), "file": f"clip {x}"})
    return iter(dataset.to_iter_dataset())


# Batches count from 0: known when the next step is logged, or when the step is to be saved.
@pytest.mark.parametrize("at", [4, 5])
def test_a_step_that_is_not_finite_stops_the_run_and_can_be_replayed(tmp_path, at):
    config, step = SmallConfig(), diverging(at)
    former = tmp_path / "nonfinite/process_0/99.npz"  # of a run that was here before
    former.parent.mkdir(parents=True)
    np.savez(former, index=98)

    def go_on():
        told = {"shown": (), "finite": ("w",), "description": "test"}
        run(fresh(), records(), step, config=config, output_dir=tmp_path, num_steps=9, **told)

    with pytest.raises(UserError, match=rf"step {at + 1}: w is inf; .*/{at + 1}.npz") as caught:
        go_on()
    assert "\n" not in str(caught.value)
    assert saved(tmp_path) == [2, 4]
    with pytest.raises(UserError, match=f"step {at + 1}: w is inf"):  # again, from step 4
        go_on()

    whole = fresh()
    for x in range(at):
        whole, _ = update(whole, x)
    replayed = replay(fresh(), records(), step, config=config, output_dir=tmp_path)
    assert replayed.step == at + 1
    assert replayed.state["w"] == whole["w"]
    assert replayed.batch == {"index": at, "file": f"clip {at}"}
    assert step(replayed.state, replayed.batch).metrics["w"] == jnp.inf


def test_a_step_that_fails_on_what_was_not_finite_is_not_the_reason(tmp_path):
    diverged = diverging(4)

    def failing(state, batch):
        if not np.isfinite(state["w"]):
            raise ValueError("no capacity holds inf tokens")
        return diverged(state, batch)

    with pytest.raises(UserError, match="step 5: w is inf"):
        told = {"shown": (), "finite": ("w",), "description": "test", "num_steps": 9}
        config = replace(SmallConfig(), run=replace(RUN, checkpoint_every=9))
        run(fresh(), records(), failing, config=config, output_dir=tmp_path, **told)


def test_without_such_a_step_there_is_nothing_to_replay(tmp_path):
    go(tmp_path, num_steps=2)
    with pytest.raises(UserError, match="no step of the run in .* was not finite"):
        replay(fresh(), batches(), step, config=SmallConfig(), output_dir=tmp_path)


def test_a_run_that_has_gone_on_is_not_replayed(tmp_path):
    save_batch(tmp_path, 2, 1)
    go(tmp_path, num_steps=2)
    with pytest.raises(UserError, match="is of step 2, but the run has gone on to step 2"):
        replay(fresh(), batches(), step, config=SmallConfig(), output_dir=tmp_path)


def test_a_second_signal_acts_as_usual():
    here = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested() == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, here)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's threads
def test_the_checkpoint_before_is_used_only_when_asked(tmp_path, caplog):
    expected = go(tmp_path / "whole")
    cut = tmp_path / "cut"
    go(cut, num_steps=6)
    for path in (cut / "checkpoints" / "6" / "state" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(UserError, match="/6 cannot be read: .*; --run.resume-from-previous goes"):
        go(cut)
    asked = SmallConfig(run=replace(RUN, resume_from_previous=True))
    assert go(cut, config=asked)["w"] == expected["w"]
    told = [record.getMessage() for record in caplog.records]
    assert any("/6 cannot be read" in line and "trying the one before it" in line for line in told)
    assert f"going on from checkpoint {cut}/checkpoints/4" in told
    assert (cut / "checkpoints" / "6.refused").is_dir()
    assert [record["step"] for record in read_metrics(cut / "metrics.jsonl")] == list(range(1, 10))
    # Another config is not damage: it is refused all the same.
    with pytest.raises(UserError, match="another config"):
        go(cut, config=replace(asked, rate=0.25))


def test_an_earlier_step_is_returned_if_asked_for(tmp_path, capsys):
    whole = go(tmp_path)
    asked = SmallConfig(run=replace(RUN, export_step=8))
    earlier = go(tmp_path, config=asked)
    assert "all 9 steps are done" in capsys.readouterr().out
    (record,) = (r for r in read_metrics(tmp_path / "metrics.jsonl") if r["step"] == 8)
    assert float(earlier["w"]) == record["w"] != float(whole["w"])


def test_a_step_to_export_is_kept(tmp_path):
    early = SmallConfig(run=replace(RUN, export_step=2, keep_last=1, keep_best=0))
    asked = go(tmp_path, config=early)
    (record,) = (r for r in read_metrics(tmp_path / "metrics.jsonl") if r["step"] == 2)
    assert float(asked["w"]) == record["w"]


@pytest.mark.parametrize(
    ("step", "done", "reason"),
    [
        (10, 0, "the run has 9 steps"),
        (3, 0, "steps are saved every 2"),
        (2, 6, r"checkpoints of \[4, 6\]"),  # it was there once
        (4, 6, ""),
        (8, 6, ""),
        (9, 6, ""),  # the last is always saved
        (0, 6, ""),
    ],
)
def test_a_step_that_cannot_be_exported_is_refused_at_the_start(step, done, reason):
    config = replace(RUN, export_step=step)
    asked = {"done": done, "num_steps": 9}
    if not reason:
        return check_export_step(config, [4, 6], **asked)
    with pytest.raises(UserError, match=reason):
        check_export_step(config, [4, 6] if done else [], **asked)
