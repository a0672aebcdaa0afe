"""The environment every test runs in: eight fake CPU devices, exact matmuls, no network.

The environment variables are set before jax is imported anywhere, so this file must be loaded
first; pytest does that for any test below this folder.
"""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
_FLAGS = os.environ.get("XLA_FLAGS", "")
for _flag in (
    "--xla_force_host_platform_device_count=8",
    # The tests compile more than they compute. As users compile, they take half as long again:
    # XLA_FLAGS=--xla_backend_optimization_level=3 make test
    "--xla_backend_optimization_level=0",
):
    if _flag.split("=")[0] not in _FLAGS:
        _FLAGS = f"{_FLAGS} {_flag}"
os.environ["XLA_FLAGS"] = _FLAGS.strip()
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[_name] = "1"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Many tests compile the same programs. Workers and what they start inherit the folder; it goes
    # when this process, the first, ends.
    _COMPILED = tempfile.TemporaryDirectory(prefix="resadapt_jax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path  # noqa: E402  (the variables above must come first)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")

# a first example compiles, which takes longer than any deadline; the same examples every time
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")

MOST_MEMORY_MAPS = 20_000
"""Linux ends a process that wants more than 65530; a compiled program takes ten or so."""


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs():
    """Forgets what was compiled before a worker has too many programs."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MEMORY_MAPS:
        jax.clear_caches()
