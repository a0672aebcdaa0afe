"""Kills a training at 20 random moments (SIGKILL) and compares its end with an undisturbed run's.

    python benchmarks/kill_resume.py

``train.py`` runs a small allocator training twice: left alone, and killed and started again until
it is done. A moment is a number of steps in the log and a fraction of a step on top; where the log
has that many already, it falls into the start of the process. The parameters, all else that the
last checkpoint holds, and the log must be the same, bit for bit. Prints what it finds and writes
``results/kill_resume.json``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as orbax
from timing import save

from resadapt_jax.training.loop.metric_log import read_metrics

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [
    *(sys.executable, "train.py", "--config", "configs/toy.py", "--batch-size", "2"),
    *("--rollouts.num-allocations", "4", "--rollouts.decoding.max-new-tokens", "4"),
    *("--data.num-pairs", "4", "--data.num-signs", "2", "--run.checkpoint-every", "4"),
]
CLOCK = (
    *("seconds", "reward_seconds", "compilations", "mfu"),
    *("visual_tokens_per_second", "answer_tokens_per_second"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", help="of both runs, kept; a temporary one if not given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.directory or temporary)
        # Compiled once: a start then takes seconds.
        environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        whole, cut = folder / "whole", folder / "cut"
        step = run_alone(whole, args.steps, environment)
        start = time_start(folder / "warm", args.steps, environment)
        print(f"undisturbed: {start:.1f} s to the first step, {step:.2f} s a step", flush=True)
        rng = np.random.default_rng(args.seed)
        # Not near the end, which the process may come to before it is killed.
        moments = np.sort(rng.uniform(0, 0.9 * args.steps, args.kills)).tolist()
        kills = [
            kill(cut, args.steps, environment, moment, start=start, step=step) for moment in moments
        ]
        run_alone(cut, args.steps, environment)
        same = compare(whole, cut, args.steps)
    for name, equal in same.items():
        print(f"{name}: {'the same, bit for bit' if equal else 'DIFFERENT'}")
    result = {"device": jax.devices()[0].device_kind, "steps": args.steps, "kills": kills}
    print("wrote", save("kill_resume", {**result, "same": same}))
    if not all(same.values()):
        raise SystemExit("the killed run ended elsewhere")


def launch(output_dir: Path, steps: int, environment: dict[str, str]) -> subprocess.Popen:
    command = [*PROGRAM, "--num-steps", str(steps), "--output-dir", str(output_dir)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def run_alone(output_dir: Path, steps: int, environment: dict[str, str]) -> float:
    """Runs to the end; seconds a step, the first one left out."""
    process = launch(output_dir, steps, environment)
    first = wait_for(process, output_dir, 1)
    _, stderr = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"train.py failed: {stderr.decode()}")
    return (time.monotonic() - first) / steps


def time_start(output_dir: Path, steps: int, environment: dict[str, str]) -> float:
    """Seconds from the launch of a process, all compiled before, to its first logged step."""
    start = time.monotonic()
    process = launch(output_dir, steps, environment)
    seconds = wait_for(process, output_dir, 1) - start
    process.kill()
    process.communicate()
    return seconds


def kill(
    output_dir: Path,
    steps: int,
    environment: dict[str, str],
    moment: float,
    *,
    start: float,
    step: float,
) -> dict[str, Any]:
    """Starts the run, kills it at a moment, and says where that was."""
    done, fraction = int(moment), moment % 1
    starting = logged(output_dir) >= done
    launched = time.monotonic()
    process = launch(output_dir, steps, environment)
    wait_for(process, output_dir, done)
    if starting:
        wait_for_log(output_dir, fraction * start)
    else:
        time.sleep(fraction * step)
    if process.poll() is not None:
        raise SystemExit(f"train.py ended by itself: {process.stderr.read().decode()}")
    process.kill()
    process.communicate()
    checkpoints = output_dir / "checkpoints"
    killed = {
        "moment": round(moment, 3),
        "while": "starting" if starting else "training",
        "seconds": round(time.monotonic() - launched, 2),
        "logged_steps": logged(output_dir),
        "checkpoints": sorted(path.name for path in checkpoints.glob("*")),
    }
    print(killed, flush=True)
    return killed


def logged(output_dir: Path) -> int:
    """Steps in the log, whose last line may be half written."""
    path = output_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process: subprocess.Popen, output_dir: Path, steps: int) -> float:
    """Waits until the log has so many steps or the process ends; the time then."""
    while process.poll() is None and logged(output_dir) < steps:
        time.sleep(0.005)
    return time.monotonic()


def wait_for_log(output_dir: Path, seconds: float) -> None:
    """Waits so long, or until the log is written: the machine may be faster than it was."""
    path = output_dir / "metrics.jsonl"
    written = path.stat().st_mtime_ns if path.exists() else None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.stat().st_mtime_ns != written:
            return
        time.sleep(0.005)


def compare(whole: Path, cut: Path, steps: int) -> dict[str, bool]:
    """What must be the same in both runs, and whether it is."""
    weights = [(path / "allocator/model.safetensors").read_bytes() for path in (whole, cut)]
    states = [orbax.load(path / "checkpoints" / str(steps)) for path in (whole, cut)]
    leaves = [[bits(leaf) for leaf in jax.tree.leaves(state)] for state in states]
    logs = [
        [{k: v for k, v in record.items() if k not in CLOCK} for record in read_metrics(path)]
        for path in (whole / "metrics.jsonl", cut / "metrics.jsonl")
    ]
    complete = [record["step"] for record in logs[1]] == list(range(1, steps + 1))
    return {
        "parameters": weights[0] == weights[1],
        "checkpoint": len(leaves[0]) > 0 and leaves[0] == leaves[1],
        "log": complete and logs[0] == logs[1],
    }


def bits(leaf: Any) -> bytes:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()


if __name__ == "__main__":
    main()
