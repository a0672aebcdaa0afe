"""Does CAPO do what the paper says? Runs every experiment of docs/evidence.md, then writes it.

    python benchmarks/evidence.py            # what is not done yet; hours
    python benchmarks/evidence.py --quick    # one seed, a few steps and clips, under runs/

One job a core, each in a process of its own (`evidence_jobs`). Interrupt it at any moment: the same
command goes on from each run's last checkpoint. Figures go to ``benchmarks/results/evidence/``, the
page and its pictures to ``docs/`` (`evidence_page`); with ``--quick`` all of it goes to
``runs/evidence_quick/``.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evidence_jobs import FULL, QUICK, ROOT, Job, Size, is_done, jobs
from evidence_page import write_page


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


@dataclass
class Running:
    """A job under way."""

    name: str
    process: subprocess.Popen
    start: float
    core: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps and clips")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--minutes", type=float, default=None, help="start nothing after so many")
    args = parser.parse_args()
    size, places = (QUICK, QUICK_PLACES) if args.quick else (FULL, FULL_PLACES)
    complete = args.page or run_all(size, places, args.minutes)
    print("wrote", write_page(places.results, places.page, size))
    if not complete:
        sys.exit("not all is done; the same command goes on")


def run_all(size: Size, places: Places, minutes: float | None = None) -> bool:
    """Runs what is not done, a job a core, and says how long the rest will take.

    Returns:
        Whether all is done now.
    """
    known = jobs(size)
    left = to_do(known, size, places)
    total, cores = len(left), sorted(os.sched_getaffinity(0))
    begin, spent, expected = time.monotonic(), 0.0, 0.0
    running: list[Running] = []
    try:
        while left or running:
            out_of_time = minutes is not None and time.monotonic() - begin > 60 * minutes
            for core in {*cores} - {one.core for one in running}:
                name = next((n for n in left if is_ready(known[n], known, places)), None)
                if name is None or out_of_time:
                    break
                left.remove(name)
                running.append(start_job(name, core, size, places))
            if not running:
                break
            time.sleep(0.5)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                if one.process.returncode:
                    raise SystemExit(f"{one.name} failed: see {log_path(one.name, places)}")
                took = time.monotonic() - one.start
                spent, expected = spent + took, expected + 60 * known[one.name].minutes
                rest = sum(known[name].minutes for name in left)
                rest += sum(known[other.name].minutes / 2 for other in running)
                hours = rest * spent / expected / len(cores) / 60
                done = total - len(left) - len(running)
                print(f"[{done}/{total}] {one.name}: {took / 60:.1f} min; {hours:.1f} h left")
    finally:
        for one in running:
            one.process.send_signal(signal.SIGTERM)  # a training saves its state
        for one in running:
            one.process.wait()
    return not left


def to_do(known: dict[str, Job], size: Size, places: Places) -> list[str]:
    """Jobs without figures, and those whose output such a job needs and does not find."""
    wanted = {name for name in known if not is_done(places.results, name, size)}
    for name in reversed(list(known)):  # what is needed comes first
        if name in wanted:
            wanted |= {
                n for n in known[name].needs if not (places.folder / known[n].output).exists()
            }
    return [name for name in known if name in wanted]


def is_ready(job: Job, known: dict[str, Job], places: Places) -> bool:
    return all((places.folder / known[name].output).exists() for name in job.needs)


def start_job(name: str, core: int, size: Size, places: Places) -> Running:
    """Starts a job on a core of its own; programs that were compiled once serve all."""
    command: Sequence[str] = [
        *(sys.executable, str(Path(__file__).with_name("evidence_jobs.py")), name),
        *("--folder", str(places.folder), "--results", str(places.results)),
        *(["--quick"] if size is QUICK else []),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(places.folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    log = log_path(name, places)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, cwd=ROOT, start_new_session=True
        )
    os.sched_setaffinity(process.pid, {core})
    return Running(name, process, time.monotonic(), core)


def log_path(name: str, places: Places) -> Path:
    return places.folder / "logs" / f"{name.replace('/', '-')}.log"


if __name__ == "__main__":
    main()
