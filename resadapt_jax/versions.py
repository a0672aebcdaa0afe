"""The versions that produced a result; whoever writes a record puts them and its config there."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

LIBRARIES = ("resadapt-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers")

_WRITTEN = (":(exclude)benchmarks/results", ":(exclude)docs")


def versions() -> dict[str, str]:
    """Python's version, each library's, and the git commit of the checkout if there is one.

    A commit is followed by ``+changes`` when the checkout's code differs from it; figures and pages
    that were written from runs are no code.
    """
    record = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            record[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            record[name] = "not installed"
    return record | _commit(Path(__file__).resolve().parents[1])


def _commit(root: Path) -> dict[str, str]:
    # an installed package is in no checkout of ours, though it may lie inside another's
    if not (root / ".git").exists():
        return {}
    commit = _git(root, "describe", "--always", "--abbrev=12")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *_WRITTEN)
    if commit is None or changes is None:
        return {}
    return {"commit": commit + ("+changes" if changes else "")}


def _git(root: Path, *arguments: str) -> str | None:
    """What a git command prints; None if it fails."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
