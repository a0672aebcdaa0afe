"""The jobs behind docs/evidence.md; `evidence.py` runs them all, and this one of them.

    python benchmarks/evidence_jobs.py variant/capo_paper/0 --folder runs/evidence --results ...

A job trains or evaluates (`evidence_runs`), goes on where it was interrupted, and writes its
figures as one file, ``<results>/<job>.json``. What it needs of other jobs must be there. Without a
JOB, names are read from standard input.
"""

import argparse
import fcntl
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from evidence_runs import (
    Size,
    backbone_config,
    break_even,
    make_backbone,
    measure_frontier,
    sample_more,
    train_variant,
    variant_config,
    variant_names,
)

from resadapt_jax.config import to_json
from resadapt_jax.errors import Terminated
from resadapt_jax.files import atomic_write
from resadapt_jax.versions import versions

DONE = "done"
"""The answer to a job that has ended well."""
HARD_METHODS = ("accuracy", "cost_outside", "capo_paper", "capo_released")
MAIN = "capo_released"
"""Whose allocator the frontier, the transfer and the longer clips are about."""
FULL = Size()
QUICK = Size(
    seeds=(0,),
    num_steps=3,
    hard_steps=2,
    num_clips=16,
    pretrain_steps=2,
    timed=((8,), (0.5,), 1, 1),
    pace=0.1,
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One experiment.

    Attributes:
        run: from the folder of all runs to the job's figures.
        config: all that decides the figures, as JSON, but for what it needs of other jobs.
        minutes: that it is expected to take on one core.
        needs: jobs whose output it reads.
        output: what it leaves for them in the folder of all runs; empty if nothing.
        alone: it measures time, so nothing else may run.
    """

    run: Callable[[Path], dict[str, Any]]
    config: str
    minutes: float
    needs: tuple[str, ...] = ()
    output: str = ""
    alone: bool = False


def jobs(size: Size) -> dict[str, Job]:
    """All of them by name, what matters most first, and none before what it needs."""
    names = variant_names()
    plain = [name for name in names if not name.startswith("hard_")]
    hard = [f"hard_{name}" for name in HARD_METHODS]
    # The longest not last, where the other cores would wait for it.
    last = ["joint", *(name for name in plain if "+" in name)]
    first = [name for name in plain if name not in (MAIN, *last)]
    first.sort(key=lambda name: name not in HARD_METHODS)
    found = {f"backbone/{name}": _backbone_job(name, size) for name in ("qwen3_vl", "hard")}
    for seed in size.seeds:
        found |= {f"variant/{MAIN}/{seed}": _variant_job(MAIN, seed, size)}
        found |= _main_jobs(seed, size)
    for name in (*first, *hard):
        found |= {f"variant/{name}/{seed}": _variant_job(name, seed, size) for seed in size.seeds}
    for seed in size.seeds:
        found |= _hard_jobs(seed, size)
    for name in last:
        found |= {f"variant/{name}/{seed}": _variant_job(name, seed, size) for seed in size.seeds}
    timing = partial(break_even, size)
    found["break_even"] = Job(run=timing, config=json.dumps(size.timed), minutes=4, alone=True)
    return {name: replace(job, minutes=job.minutes * size.pace) for name, job in found.items()}


def _backbone_job(name: str, size: Size) -> Job:
    return Job(
        run=partial(make_backbone, name, size),
        config=to_json(backbone_config(name, size, Path())),
        minutes={"qwen3_vl": 13, "hard": 25}[name],
        output=f"backbones/{name}/backbone",
    )


def _variant_job(name: str, seed: int, size: Size) -> Job:
    is_hard = name.startswith("hard_")
    return Job(
        run=partial(train_variant, name, seed, size),
        config=to_json(variant_config(name, seed, size, Path())),
        minutes=24 if name == "joint" else 14.5 if is_hard else 5.4,
        needs=("backbone/hard",) if is_hard else (),
        output=f"runs/{name}/{seed}/allocator",
    )


def _main_jobs(seed: int, size: Size) -> dict[str, Job]:
    """What is done with the main variant's allocator."""
    args = MAIN, seed, size
    main, config = f"variant/{MAIN}/{seed}", to_json(variant_config(*args, Path()))
    frontier = partial(measure_frontier, *args, None)
    transfer = partial(measure_frontier, *args, "qwen3_vl")
    both = main, "backbone/qwen3_vl"
    return {
        f"frontier/{seed}": Job(run=frontier, config=config, minutes=2, needs=(main,)),
        f"transfer/{seed}": Job(run=transfer, config=config, minutes=2, needs=both),
    }


def _hard_jobs(seed: int, size: Size) -> dict[str, Job]:
    """What is done with the main variant's allocator of the harder world."""
    name = f"hard_{MAIN}"
    needs, config = (f"variant/{name}/{seed}",), to_json(variant_config(name, seed, size, Path()))
    frontier, longer = (
        partial(measure_frontier, name, seed, size, None),
        partial(sample_more, name, seed, size),
    )
    return {
        f"hard_frontier/{seed}": Job(run=frontier, config=config, minutes=5, needs=needs),
        f"longer/{seed}": Job(run=longer, config=config, minutes=3, needs=needs),
    }


def fingerprint(known: Mapping[str, Job], name: str) -> str:
    """Of all that decides a job's figures: its config and those of what it needs."""
    parts = [known[name].config, *(fingerprint(known, need) for need in known[name].needs)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def result_path(results: Path, name: str) -> Path:
    return results / f"{name.replace('/', '-')}.json"


def read_figures(results: Path, known: Mapping[str, Job], name: str) -> dict[str, Any] | None:
    """A job's figures; None if there are none, or of another config."""
    path = result_path(results, name)
    record = json.loads(path.read_text()) if path.exists() else {}
    return record if record.get("fingerprint") == fingerprint(known, name) else None


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Waits until no other process holds this lock; whoever dies lets it go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def do(
    name: str,
    known: Mapping[str, Job],
    folder: Path,
    results: Path,
    made_by: Mapping[str, str],
) -> None:
    """Runs a job, if no other process has meanwhile, and writes its figures.

    With figures but without its output, which is in no checkout, it runs for that.

    Args:
        made_by: the versions of the code that this process has read.
    """
    with only_one(folder / "locks" / name.replace("/", "-")):
        complete = (folder / known[name].output).exists()
        if complete and read_figures(results, known, name) is not None:
            return
        figures = known[name].run(folder)
        record = {
            "job": name,
            "fingerprint": fingerprint(known, name),
            "config": json.loads(known[name].config),
            "versions": dict(made_by),
            **figures,
        }
        atomic_write(
            result_path(results, name), json.dumps(record, indent=1, allow_nan=False) + "\n"
        )


def serve(
    known: Mapping[str, Job], folder: Path, results: Path, made_by: Mapping[str, str]
) -> None:
    """Does the jobs whose names it reads, a line each, and answers each with a line how it went.

    All else that is written while a job is under way goes to its log.

    Raises:
        Terminated: a training was told to end, and has saved its state.
    """
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        name = line.strip()
        with _to_log(log_path(folder, name)):
            how = _try(partial(do, name, known, folder, results, made_by))
        print(how, file=answers, flush=True)


def log_path(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name.replace('/', '-')}.log"


@contextmanager
def _to_log(path: Path) -> Iterator[None]:
    """Standard output and error, those of libraries outside Python too, at the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    yield
    sys.stdout.flush()


def _try(task: Callable[[], None]) -> str:
    try:
        task()
    except Terminated:
        raise
    except Exception:
        traceback.print_exc()
        return "failed"
    return DONE


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", nargs="?", default="")
    parser.add_argument("--folder", type=Path, required=True, help="of all runs")
    parser.add_argument("--results", type=Path, required=True, help="of the figures")
    parser.add_argument("--quick", action="store_true", help="a few steps and clips")
    args = parser.parse_args(argv)
    known, made_by = jobs(QUICK if args.quick else FULL), versions()
    if not args.job:
        serve(known, args.folder, args.results, made_by)
    elif args.job not in known:
        sys.exit(f"no job {args.job!r}; there are {', '.join(known)}")
    else:
        do(args.job, known, args.folder, args.results, made_by)


if __name__ == "__main__":
    main()
