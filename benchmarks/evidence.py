"""Does CAPO do what the paper says? Runs every experiment of docs/evidence.md, then writes it.

    python benchmarks/evidence.py            # what is not done yet; hours
    python benchmarks/evidence.py --quick    # one seed, a few steps and clips, under runs/

Each core has a process that does one job after the other (`evidence_jobs`), so that what was traced
for one serves the next; what is timed runs last, alone. Interrupt it at any moment: the same
command goes on from each run's last checkpoint. Figures go to
``benchmarks/results/evidence/``, the page and its pictures to ``docs/`` (`evidence_page`); with
``--quick`` all of it goes to ``runs/evidence_quick/``.
"""

import argparse
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from evidence_jobs import DONE, FULL, QUICK, Job, jobs, log_path, read_figures
from evidence_page import write_page
from evidence_runs import ROOT, Size


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where all of it goes: runs, their figures, and the page."""

    folder: Path
    results: Path
    page: Path


FULL_PLACES = Places(
    folder=ROOT / "runs/evidence",
    results=ROOT / "benchmarks/results/evidence",
    page=ROOT / "docs",
)
QUICK_PLACES = Places(
    folder=ROOT / "runs/evidence_quick",
    results=ROOT / "runs/evidence_quick/results",
    page=ROOT / "runs/evidence_quick",
)


class Worker(NamedTuple):
    """A process that does one job after the other (`evidence_jobs.serve`)."""

    process: subprocess.Popen

    def begin(self, name: str) -> None:
        """Gives it a job."""
        print(name, file=self.process.stdin, flush=True)

    def ended(self) -> str | None:
        """How the job ended, `evidence_jobs.DONE` if well; None while it is under way."""
        ready, _, _ = select.select([self.process.stdout], [], [], 0)
        return self.process.stdout.readline().strip() if ready else None  # empty if it died


class Workers:
    """A worker for each set of cores that was asked for."""

    def __init__(self, size: Size, places: Places):
        self._size, self._places = size, places
        self._at: dict[tuple[int, ...], Worker] = {}

    def at(self, cores: Sequence[int]) -> Worker:
        """The worker on these cores; started, if there is none that lives."""
        worker = self._at.get(tuple(cores))
        if worker is None or worker.process.poll() is not None:
            worker = self._at[tuple(cores)] = start_worker(cores, self._size, self._places)
        return worker

    def stop(self, *those: Sequence[int]) -> None:
        """Ends the workers on these cores, by default all; a training saves its state before."""
        gone = [self._at.pop(tuple(cores)) for cores in those or list(self._at)]
        for worker in gone:
            worker.process.terminate()
        for worker in gone:
            worker.process.communicate()  # no more jobs; waits


@dataclass
class Running:
    """A job under way."""

    name: str
    worker: Worker
    start: float
    cores: Sequence[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps and clips")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--minutes", type=float, default=None, help="start nothing after so many")
    args = parser.parse_args()
    for name in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: jobs are told too
        signal.signal(name, lambda *_: sys.exit("stopped; the same command goes on"))
    size, places = (QUICK, QUICK_PLACES) if args.quick else (FULL, FULL_PLACES)
    problems = [] if args.page else run_all(jobs(size), size, places, args.minutes)
    print("wrote", write_page(places.results, places.page, size))
    if problems:
        sys.exit("\n".join(problems))


def run_all(
    known: Mapping[str, Job], size: Size, places: Places, minutes: float | None = None
) -> list[str]:
    """Runs what is not done, a job a core, and says how long the rest will take.

    A job that fails is left out, with those that need it.

    Returns:
        Why not all is done; empty if it is.
    """
    left = to_do(known, places)
    cores = sorted(os.sched_getaffinity(0))
    progress = Progress(known, len(left), len(cores))
    progress.announce(left)
    begin = time.monotonic()
    running: list[Running] = []
    workers = Workers(size, places)
    problems: list[str] = []
    try:
        while left or running:
            if minutes is None or time.monotonic() - begin < 60 * minutes:
                start_ready(known, left, running, cores, workers)
            if not running:
                break
            time.sleep(0.5)
            for one in list(running):
                if (how := one.worker.ended()) is None:
                    continue
                running.remove(one)
                progress.report(one, left, running)
                if how != DONE:
                    workers.stop(one.cores)
                    log = log_path(places.folder, one.name)
                    problems.append(f"{one.name} failed: see {log if log.exists() else 'above'}")
                    left[:] = [name for name in left if not rests_on(known, name, one.name)]
    finally:
        workers.stop()
    if left:
        problems.append(f"{len(left)} jobs are left; the same command goes on")
    return problems


@dataclass
class Progress:
    """How long the rest will take, from how long jobs took beside what was expected.

    The expectation itself weighs an hour, as jobs that only go on are soon over.
    """

    known: Mapping[str, Job]
    total: int
    num_cores: int
    spent: float = 60.0
    expected: float = 60.0

    def announce(self, left: Sequence[str]) -> None:
        """Prints what is to come."""
        print(f"{len(left)} jobs, about {self._hours(left, []):.1f} h", flush=True)

    def report(self, one: Running, left: Sequence[str], running: Sequence[Running]) -> None:
        """Counts a job that has ended, and prints."""
        took = (time.monotonic() - one.start) / 60
        self.spent, self.expected = self.spent + took, self.expected + self.known[one.name].minutes
        done = self.total - len(left) - len(running)
        rest = self._hours(left, running)
        print(f"[{done}/{self.total}] {one.name}: {took:.1f} min; {rest:.1f} h left", flush=True)

    def _hours(self, left: Sequence[str], running: Sequence[Running]) -> float:
        minutes = sum(self.known[name].minutes for name in left)
        minutes += sum(self.known[one.name].minutes / 2 for one in running)
        return minutes * self.spent / self.expected / self.num_cores / 60


def start_ready(
    known: Mapping[str, Job],
    left: list[str],
    running: list[Running],
    cores: Sequence[int],
    workers: Workers,
) -> None:
    """Starts what is ready on free cores: takes it off ``left``, adds it to ``running``."""
    for core in {*cores}.difference(*(one.cores for one in running)):
        coming = {*left, *(one.name for one in running)}
        name = next((name for name in left if coming.isdisjoint(known[name].needs)), None)
        if name is None or (running and any(known[n].alone for n in (name, running[0].name))):
            break
        if known[name].alone:
            workers.stop()  # what they hold in memory may slow it
        at = cores if known[name].alone else [core]
        worker = workers.at(at)
        worker.begin(name)
        running.append(Running(name, worker, time.monotonic(), at))
        left.remove(name)


def rests_on(known: Mapping[str, Job], name: str, other: str) -> bool:
    """Whether a job needs another, or one that needs it."""
    return any(need == other or rests_on(known, need, other) for need in known[name].needs)


def to_do(known: Mapping[str, Job], places: Places) -> list[str]:
    """Jobs without figures, and those whose output such a job needs and does not find."""
    wanted = {name for name in known if read_figures(places.results, known, name) is None}
    for name in reversed(list(known)):  # what is needed comes first
        if name in wanted:
            wanted |= {
                n for n in known[name].needs if not (places.folder / known[n].output).exists()
            }
    return [name for name in known if name in wanted]


def start_worker(cores: Sequence[int], size: Size, places: Places) -> Worker:
    """Starts a worker on cores of its own; programs that were compiled once serve all."""
    command: Sequence[str] = [
        *(sys.executable, str(Path(__file__).with_name("evidence_jobs.py"))),
        *("--folder", str(places.folder), "--results", str(places.results)),
        *(["--quick"] if size is QUICK else []),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(len(cores)),
        "JAX_COMPILATION_CACHE_DIR": str(places.folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, env=environment, cwd=ROOT, start_new_session=True)
    os.sched_setaffinity(process.pid, cores)
    return Worker(process)


if __name__ == "__main__":
    main()
