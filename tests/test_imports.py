"""Imports point one way: read from the source, so an import inside a function counts too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A part of resadapt_jax may import itself and the parts named beside it, nothing else of the
# package. A part that is not in the table fails the test: say here what it may lean on.
GROUND = {"typing", "errors", "files", "versions", "shipped"}
MODELS = GROUND | {"models"}
NUMERICS = MODELS | {"operators", "allocator", "losses", "advantages", "rewards", "generation"}
MAY_IMPORT = {
    "typing": set(),
    "errors": set(),
    "files": {"errors"},
    "versions": set(),
    "shipped": set(),
    "config": GROUND,
    "losses": {"typing"},
    "advantages": {"typing"},
    "rewards": GROUND | {"config"},
    "allocator": MODELS | {"config", "operators"},
    "models": GROUND,
    "operators": MODELS,
    "generation": MODELS,
    "data": MODELS | {"operators", "rewards"},
    "report": NUMERICS | {"data", "config"},
    "training": NUMERICS | {"data", "config", "report"},
    "evaluation": NUMERICS | {"data", "config", "report", "training"},
    "allocate": NUMERICS | {"data", "config", "report", "training", "evaluation"},
}
LIGHT = {"jax", "flax", "jaxtyping", "resadapt_jax"} | set(sys.stdlib_module_names)
ONLY_IN = {
    "grain": {"data"},
    "av": {"data"},
    "tensorflow_datasets": {"data"},
    "orbax": {"training"},
    "sympy": {"rewards"},
    "math_verify": {"rewards"},
    "rouge_score": {"rewards"},
    "nltk": {"rewards"},
    "tokamax": {"kernels"},
    "torch": set(),
    "torchvision": set(),
}


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, ``from a import b`` giving ``a.b``."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: -node.level] if node.level else ()
            source = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{source}.{alias.name}" for alias in node.names)


def sources(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def part_of(path: Path) -> str:
    """``models`` for ``resadapt_jax/models/rope.py``, ``typing`` for ``resadapt_jax/typing.py``."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


def identity(path: Path) -> str:
    return str(path.relative_to(ROOT))


PACKAGE = sources("resadapt_jax/**/*.py")
PROGRAMS = sources("train.py", "eval.py", "configs/**/*.py", "kernels/**/*.py")


@pytest.mark.parametrize("path", PACKAGE, ids=identity)
def test_parts_lean_only_on_what_is_below_them(path):
    part = part_of(path)
    if part == "__init__":
        allowed = set()
    else:
        assert part in MAY_IMPORT, f"say in tests/test_imports.py what {part} may import"
        allowed = MAY_IMPORT[part] | {part}
    names = [name.split(".") for name in imported(path)]
    used = {name[1] for name in names if name[0] == "resadapt_jax" and len(name) > 1}
    assert used <= allowed


@pytest.mark.parametrize("path", PACKAGE + PROGRAMS, ids=identity)
def test_heavy_libraries_stay_in_their_room(path):
    part = part_of(path) if path in PACKAGE else path.relative_to(ROOT).parts[0]
    for name in imported(path):
        homes = ONLY_IN.get(name.split(".")[0])
        assert homes is None or part in homes, f"{name} belongs to {homes or 'tests'}"
        assert not name.startswith("flax.nnx"), "its import breaks between jax versions"


@pytest.mark.parametrize(
    "path", sources("resadapt_jax/losses/**/*.py", "resadapt_jax/advantages/**/*.py"), ids=identity
)
def test_losses_and_advantages_are_light(path):
    assert {name.split(".")[0] for name in imported(path)} <= LIGHT


def test_kernels_stand_alone():
    assert (ROOT / "kernels/__init__.py").read_text() == ""
    for path in sources("kernels/**/*.py"):
        assert not any(name.split(".")[0] == "resadapt_jax" for name in imported(path)), path


def test_the_table_has_no_cycle():
    order = []
    remaining = {part: set(below) for part, below in MAY_IMPORT.items()}
    while remaining:
        free = {part for part, below in remaining.items() if below <= set(order)}
        assert free, f"a cycle among {sorted(remaining)}"
        order.extend(sorted(free))
        remaining = {part: below for part, below in remaining.items() if part not in free}


def test_importing_the_top_level_is_cheap():
    """Hugging Face libraries probe a package named ``kernels``; it must cost nothing."""
    program = "import sys, kernels, resadapt_jax; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_the_reader_sees_every_form_of_import(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "resadapt_jax" / "models" / "rope.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import av\n"
        "from ..data import video\n"
        "from . import layers\n"
        "def f():\n"
        "    from resadapt_jax.training.state import State\n"
    )
    assert list(imported(path)) == [
        "av",
        "resadapt_jax.data.video",
        "resadapt_jax.models.layers",
        "resadapt_jax.training.state.State",
    ]
