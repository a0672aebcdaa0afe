"""Checkpoints as Hugging Face directories: ``config.json`` and one or many safetensors files."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flax import traverse_util
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file

from resadapt_jax.errors import UserError
from resadapt_jax.typing import Params

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def read_config(directory: str | Path) -> dict[str, Any]:
    """The parsed ``config.json``.

    Raises:
        UserError: no such directory or file, or not JSON.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise UserError(f"no config.json in {directory}")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def load_params(
    directory: str | Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    rename: Mapping[str, str],
    ignore: frozenset[str] = frozenset(),
    dtype: DTypeLike | None = None,
) -> Params:
    """Reads the tensors named in ``shapes`` into a nested tree.

    Args:
        directory: holds ``model.safetensors``, or shards and their index.
        shapes: every key the model has, with its shape.
        rename: prefixes of another key layout -> prefixes of ours.
        ignore: keys that may be present and are not read.
        dtype: cast to it; ``None`` keeps the file's.

    Raises:
        UserError: no weights; or any missing, unexpected or misshaped tensors, all listed.
    """
    try:
        with ExitStack() as files:
            found = {}
            for path in _weight_files(Path(directory)):
                file = files.enter_context(safe_open(path, framework="flax"))
                found |= {_renamed(name, rename): (file, name) for name in file.keys()}
            found = {key: where for key, where in found.items() if key not in ignore}
            slices = {key: file.get_slice(name) for key, (file, name) in found.items()}
            _check(directory, slices, shapes)
            tensors = {key: file.get_tensor(name) for key, (file, name) in found.items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{directory}: a weight file cannot be read: {error}") from error
    if dtype is not None:
        tensors = {key: value.astype(dtype) for key, value in tensors.items()}
    return traverse_util.unflatten_dict(tensors, sep=".")


def save(directory: str | Path, config: Mapping[str, Any], params: Params) -> None:
    """Writes ``config.json`` and ``model.safetensors``, keys being the tree's dotted paths."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    flat = traverse_util.flatten_dict(params, sep=".")
    # transformers refuses a file that does not say which framework's layout it follows.
    save_file(dict(sorted(flat.items())), directory / _SINGLE, metadata={"format": "pt"})


def _check(
    directory: str | Path, found: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises one error that lists every difference between a checkpoint and a model."""
    stored = {key: tuple(tensor.get_shape()) for key, tensor in found.items()}
    problems = [f"missing {key} {shape}" for key, shape in shapes.items() if key not in stored]
    for key, shape in stored.items():
        if key not in shapes:
            problems.append(f"unexpected {key} {shape}")
        elif shape != shapes[key]:
            problems.append(f"misshaped {key} {shape}, expected {shapes[key]}")
    if problems:
        listing = "\n  ".join(sorted(problems))
        raise UserError(f"{directory} does not hold this model:\n  {listing}")


def _weight_files(directory: Path) -> list[Path]:
    if (directory / _INDEX).is_file():
        weight_map = json.loads((directory / _INDEX).read_text())["weight_map"]
        files = [directory / name for name in sorted(set(weight_map.values()))]
    else:
        files = [directory / _SINGLE]
    if absent := [path.name for path in files if not path.is_file()]:
        raise UserError(f"{directory} lacks {', '.join(absent)}")
    return files


def _renamed(key: str, rename: Mapping[str, str]) -> str:
    for prefix, ours in rename.items():
        if key.startswith(prefix):
            return ours + key.removeprefix(prefix)
    return key
