"""The Triton kernel's numbers, in Triton's interpreter: the suite that all backends pass."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_passes_the_suite_of_backends():
    suite = ROOT / "tests/kernels"
    path = os.pathsep.join(map(str, (ROOT, suite, Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", f"--confcutdir={suite}"]
    # The interpreter cuts a bfloat16 off where a GPU rounds it.
    command += ["-p", "triton_interpreter", "-k", "triton and not bfloat16"]
    command += [str(suite / "test_resize_backends.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
