"""The versions that produced a result; whoever writes a record puts them and its config there."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

LIBRARIES = ("resadapt-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers")


def versions() -> dict[str, str]:
    """Python's version, each library's, and the git commit of the checkout if there is one.

    A commit is followed by ``+changes`` when the checkout differs from it.
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
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"commit": done.stdout.strip()} if done.returncode == 0 else {}
