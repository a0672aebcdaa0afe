"""Set before jax and libtpu are loaded: this machine's devices are never asked for."""

import os
from collections import Counter

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # libtpu locks a file, in vain without a TPU
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # nor is there a metadata server


def pytest_terminal_summary(terminalreporter):
    """The time of each file: what is compiled there is what it takes."""
    seconds = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            seconds[getattr(report, "fspath", None)] += getattr(report, "duration", 0.0)
    for name, total in seconds.most_common():
        if name is not None:
            terminalreporter.write_line(f"{total:7.1f} s {name}")
