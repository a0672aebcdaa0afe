"""Timing of several things in turns, so that a busy moment of the machine hits all of them."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resadapt_jax.files import atomic_write
from resadapt_jax.versions import versions

RESULTS = Path(__file__).parent / "results"


def interleaved(
    arms: Mapping[str, Callable[[], Any]], *, warmup: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds of every repeat of every arm: warm-up of all, then one run of each in turn."""
    for arm in arms.values():
        for _ in range(warmup):
            arm()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def save(name: str, result: dict[str, Any]) -> Path:
    """Writes ``results/<name>.json`` with the machine, the versions and the command."""
    path = RESULTS / f"{name}.json"
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        **result,
    }
    atomic_write(path, json.dumps(result, indent=2) + "\n")
    return path
