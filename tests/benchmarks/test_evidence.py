"""The jobs behind the evidence page fit together, are done once, and go on where they ended."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import evidence
import evidence_jobs
import evidence_runs
import pytest
from evidence import Places, Running, run_all, to_do
from evidence_jobs import FULL, QUICK, Job, do, fingerprint, jobs, result_path
from evidence_page import METHODS
from evidence_parts import KNOWN, make_job, write_figures
from evidence_runs import variant_config, variant_names

from resadapt_jax.advantages import AdvantageConfig
from resadapt_jax.config import load_config
from resadapt_jax.data.toy_world import HARD_WORLD, ToyWorldConfig
from resadapt_jax.errors import UserError
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.training.config import EvaluationConfig
from resadapt_jax.training.pretrain import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
ABLATION = ROOT / "configs/toy_ablation.py"


def test_jobs_come_after_what_they_need():
    names = list(KNOWN)
    for place, (name, job) in enumerate(KNOWN.items()):
        assert all(KNOWN[need].output and need in names[:place] for need in job.needs), name
    outputs = [job.output for job in KNOWN.values() if job.output]
    assert len(set(outputs)) == len(outputs)
    assert {name.removeprefix("variant/") for name in names} >= {
        f"{method}/{seed}" for method in METHODS for seed in range(3)
    }


def test_every_variant_is_a_config_of_its_own():
    found = set()
    for name in variant_names():
        config = load_config(ABLATION, name)
        assert isinstance(config.advantage, AdvantageConfig)
        assert config.output_dir == f"runs/toy_ablation/{name}"
        assert (config.data == HARD_WORLD) == name.startswith("hard_")
        found.add(evidence_jobs.to_json(variant_config(name, 0, FULL, Path())))
    assert len(found) == len(variant_names())
    with pytest.raises(UserError, match="knows no 'cappo'"):
        load_config(ABLATION, "cappo")


def test_held_out_clips_are_nobody_elses():
    configs = [variant_config("capo_released", seed, FULL, Path()) for seed in FULL.seeds]
    held_out = {config.evaluation.seed for config in configs}
    seen = {config.data.seed for config in configs}
    seen |= {ToyWorldConfig().seed, PretrainConfig().world.seed, EvaluationConfig().seed, 3}
    assert len(held_out) == 3 and held_out.isdisjoint(seen)


@pytest.fixture
def places(tmp_path):
    (tmp_path / "results").mkdir()
    return Places(folder=tmp_path / "runs", results=tmp_path / "results", page=tmp_path)


def test_what_is_to_do_includes_lost_output_that_is_needed(places):
    known = jobs(QUICK)
    for name in known:
        if name not in ("transfer/0", "variant/gdpo/0"):
            write_figures(places.results, name, {}, known)
    write_figures(places.results, "variant/gdpo/0", {})  # of another size
    needed = ["backbone/qwen3_vl", "variant/capo_released/0", "variant/gdpo/0", "transfer/0"]
    assert to_do(known, places) == [name for name in known if name in needed]
    (places.folder / known["backbone/qwen3_vl"].output).mkdir(parents=True)
    assert "backbone/qwen3_vl" not in to_do(known, places)


def test_figures_are_stale_if_a_config_changes_that_they_come_from():
    first = {"a": Job(run=dict, config="1", minutes=1), "b": make_job("2", needs=("a",))}
    for name, change in (("a", "3"), ("b", "4")):
        second = first | {name: make_job(change, needs=first[name].needs)}
        assert fingerprint(first, "b") != fingerprint(second, "b")


class _Workers:
    """Do a job at once and say so when asked for the second time, as `evidence.Worker`."""

    def __init__(self, known, places, broken=()):
        self.known, self.places, self.broken = known, places, broken
        self.log, self.stopped = [], []

    def start(self, cores, size, places):
        return _Here(self, tuple(cores))


class _Here:
    def __init__(self, workers, cores):
        self.workers, self.cores, self.process = workers, cores, self

    def begin(self, name):
        self.name, self.asked = name, 0
        self.workers.log.append((name, self.cores))
        places = self.workers.places
        do(name, self.workers.known, places.folder, places.results, {})

    def ended(self):
        self.asked += 1
        how = "failed" if self.name in self.workers.broken else evidence_jobs.DONE
        return how if self.asked == 2 else None

    def terminate(self):
        self.workers.stopped.append(self.cores)

    def communicate(self):
        pass

    def poll(self):
        return None


def test_full_size_is_evaluated_once_for_variants_that_share_backbone_and_clips(monkeypatch):
    asked = []

    def evaluate(opened, settings):
        asked.append(opened)
        return SimpleNamespace(tallies=[len(asked)])

    monkeypatch.setattr(evidence_runs, "evaluate_opened", evaluate)
    monkeypatch.setattr(evidence_runs, "_EVALUATED", {})
    setting = SimpleNamespace(method="vanilla", name="scale 1")

    def once(name, seed=0, **changes):
        config = replace(variant_config(name, seed, FULL, Path("runs")), **changes)
        return evidence_runs.evaluate_once(SimpleNamespace(config=config), setting)

    assert [once(name) for name in ("gdpo", "accuracy_uncapped", "joint", "gdpo")] == [1, 1, 2, 1]
    assert [once("gdpo", seed=1), once("hard_gdpo"), once("hard_capo_paper")] == [3, 4, 4]
    convention = next(one for one in Convention if one is not Convention.HF_5)
    assert once("gdpo", convention=convention) == 5


def test_jobs_run_in_order_and_what_is_timed_runs_alone(places, monkeypatch):
    known = {
        "a": make_job("a", output="a"),
        "b": make_job("b", needs=("a",)),
        "c": make_job("c", alone=True),
    }
    (places.folder / "a").mkdir(parents=True)  # left behind by an attempt before: not ready yet
    workers = _Workers(known, places)
    log = workers.log
    monkeypatch.setattr(evidence, "start_worker", workers.start)
    monkeypatch.setattr(evidence.os, "sched_getaffinity", lambda _: {0, 1})
    assert run_all(known, QUICK, places) == []
    assert [name for name, _ in log] == ["a", "b", "c"]
    assert len(log[0][1]) == len(log[1][1]) == 1 and log[2][1] == (0, 1)
    assert run_all(known, QUICK, places) == [] and len(log) == 3


def test_a_job_that_fails_takes_with_it_what_needs_it(places, monkeypatch):
    known = {"a": make_job("a", output="a"), "b": make_job("b", needs=("a",), output="b")}
    known |= {"after b": make_job("after b", needs=("b",)), "c": make_job("c")}
    workers = _Workers(known, places, broken=("a",))
    monkeypatch.setattr(evidence, "start_worker", workers.start)
    monkeypatch.setattr(evidence.os, "sched_getaffinity", lambda _: {0})
    (problem,) = run_all(known, QUICK, places)
    assert problem.startswith("a failed: see ") and [name for name, _ in workers.log] == ["a", "c"]
    assert workers.stopped == [(0,), (0,)]  # what failed may have left anything: c's is another
    assert run_all(known, QUICK, places, minutes=0)[-1].endswith("the same command goes on")


SERVE = """
import signal
import sys
import time
from pathlib import Path
from evidence_jobs import Job, serve
from resadapt_jax.errors import Terminated

def well(folder):
    print("a word")
    return {"made": 1}

def ill(folder):
    raise ValueError("what went wrong")

def long(folder):
    def stop(*_):
        raise Terminated("saved")

    signal.signal(signal.SIGTERM, stop)
    (folder / "started").touch()
    time.sleep(60)

runs = {"a/0": well, "b": ill, "c": long}
known = {name: Job(run=run, config="1", minutes=1) for name, run in runs.items()}
serve(known, Path(sys.argv[1]), Path(sys.argv[1]), {"commit": "one"})
"""


def _serving(folder):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", SERVE, str(folder)]
    return evidence.Worker(subprocess.Popen(command, cwd=ROOT / "benchmarks", **pipes))


def test_a_worker_does_one_job_after_the_other_and_logs_each(tmp_path):
    worker = _serving(tmp_path)
    for name, answer in (("a/0", evidence_jobs.DONE), ("b", "failed")):
        worker.begin(name)
        while (how := worker.ended()) is None:
            time.sleep(0.05)
        assert how == answer
    assert (tmp_path / "logs/a-0.log").read_text() == "a word\n"
    assert "ValueError: what went wrong" in (tmp_path / "logs/b.log").read_text()
    record = json.loads(result_path(tmp_path, "a/0").read_text())
    assert (record["made"], record["versions"]) == (1, {"commit": "one"})
    worker.process.kill()
    worker.process.wait()
    assert worker.ended() == ""  # not done


def test_stopping_ends_a_job_that_saves_its_state_and_a_worker_that_has_none(
    tmp_path, places, monkeypatch
):
    monkeypatch.setattr(evidence, "start_worker", lambda *_: _serving(tmp_path))
    workers = evidence.Workers(QUICK, places)
    busy, idle = workers.at([0]), workers.at([1])
    assert workers.at([0]) is busy
    busy.begin("c")
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
    stopping = Thread(target=workers.stop, daemon=True)
    stopping.start()
    stopping.join(timeout=30)
    busy.process.kill()  # if it waits for more
    assert busy.process.returncode == 1 and idle.process.returncode != 0
    assert "Terminated: saved" in (tmp_path / "logs/c.log").read_text()
    dead = workers.at([0])
    dead.process.kill()
    dead.process.wait()
    assert workers.at([0]) is not dead
    workers.stop()


def test_time_left_follows_how_long_jobs_took(capsys, monkeypatch):
    known = {name: Job(run=dict, config='""', minutes=60) for name in "abc"}
    progress = evidence.Progress(known, total=3, num_cores=2)
    progress.announce(list("abc"))
    monkeypatch.setattr(evidence.time, "monotonic", lambda: 3 * 3600.0)
    # 60 expected minutes took 180: with the first hour 240 of 120, so that c's 60 and half of b's
    # become 180 minutes on two cores.
    running = [Running("b", None, 0.0, [0])]
    progress.report(Running("a", None, 0.0, [1]), ["c"], running)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["3 jobs, about 1.5 h", "[1/3] a: 180.0 min; 1.5 h left"]


def test_a_job_that_another_process_did_meanwhile_is_not_done_again(places):
    known = {"a": make_job("a")}
    do("a", known, places.folder, places.results, {})
    broken = {"a": Job(run=None, config=known["a"].config, minutes=1)}  # a call would raise
    do("a", broken, places.folder, places.results, {})
    lost = {"a": make_job("a", output="a")}
    result_path(places.results, "a").write_text(json.dumps({"fingerprint": fingerprint(lost, "a")}))
    do("a", lost, places.folder, places.results, {})  # for its output
    assert json.loads(result_path(places.results, "a").read_text())["made"] == "a"
