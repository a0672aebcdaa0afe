"""Checkpoints as Hugging Face directories: ``config.json`` and one or many safetensors files."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Sharding
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from resadapt_jax.errors import UserError
from resadapt_jax.files import atomic_write
from resadapt_jax.models.stacking import CheckpointTensor, checkpoint_tensors
from resadapt_jax.typing import Array, Params

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"

ConfigT = TypeVar("ConfigT")


def read_config(directory: str | Path) -> dict[str, Any]:
    """The parsed ``config.json``.

    Raises:
        UserError: no such directory or file, not JSON, or no JSON object.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise UserError(f"no config.json in {directory}")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: the config is no JSON object")
    return config


def load_config(directory: str | Path, from_hf: Callable[[Mapping[str, Any]], ConfigT]) -> ConfigT:
    """What ``from_hf`` makes of a directory's ``config.json``.

    Raises:
        UserError: it is unreadable, unsupported, or a field of it is of the wrong kind.
    """
    config = read_config(directory)
    try:
        return from_hf(config)
    except ValueError as error:
        raise UserError(f"{directory}: {error}") from error
    # A list for a mapping, a string or zero for a size: whatever is done with it first.
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{directory}: a field of config.json makes no sense: {error}") from error


def load_params(
    directory: str | Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    rename: Mapping[str, str],
    ignore: frozenset[str] = frozenset(),
    dtype: DTypeLike | None = None,
    shardings: Mapping[str, Sharding] | None = None,
) -> Params:
    """Reads the tensors named in ``shapes`` into a nested tree, one at a time.

    Nothing is read before all keys and shapes are known to be right. A device is given its own
    part of a tensor only, cast on the way, and a file is closed before the next is opened: beyond
    the parameters themselves the host holds at most one file.

    Args:
        directory: holds ``model.safetensors``, or shards and their index.
        shapes: every key the model has, with its shape.
        rename: prefixes of another key layout -> prefixes of ours.
        ignore: keys that may be present and are not read.
        dtype: cast to it; ``None`` keeps the file's.
        shardings: where each tensor goes (``partition.shardings``); the default device if ``None``.

    Raises:
        UserError: no weights; or any missing, unexpected or misshaped tensors, all listed.
    """
    tensors: dict[str, Array] = {}
    try:
        files = _weight_files(Path(directory))
        stored = {path: _stored_shapes(path, rename, ignore) for path in files}
        _check(
            directory,
            {key: shape for keys in stored.values() for key, shape in keys.items()},
            shapes,
        )
        for path in files:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():
                    key = _renamed(name, rename)
                    if key not in ignore:
                        place = None if shardings is None else shardings[key]
                        tensors[key] = _read(file, name, shapes[key], dtype, place)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{directory}: a weight file cannot be read: {error}") from error
    return traverse_util.unflatten_dict(tensors, sep=".")


def save(
    directory: str | Path,
    config: Mapping[str, Any],
    params: Params,
    *,
    max_file_bytes: int = 5_000_000_000,
) -> None:
    """Writes ``config.json`` and the weights, keys being the dotted paths of the unstacked tree.

    Weights go into one file, or into several and their index where they are more than
    ``max_file_bytes``. Each file appears whole, and ``config.json`` last: a directory without one
    holds an unfinished export.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").unlink(missing_ok=True)
    tensors = dict(sorted(checkpoint_tensors(params).items()))
    files = _divide(tensors, max_file_bytes)
    for old in {*directory.glob("model*.safetensors"), directory / _INDEX} - {
        directory / name for name in files
    }:
        old.unlink(missing_ok=True)
    for name, keys in files.items():
        temporary = directory / f".{name}.tmp"
        values = {key: tensors[key].value() for key in keys}
        # transformers refuses a file that does not say which framework's layout it follows.
        save_file(values, temporary, metadata={"format": "pt"})
        temporary.chmod(0o644)  # safetensors makes it its owner's alone
        os.replace(temporary, directory / name)
    if len(files) > 1:
        weight_map = {key: name for name, keys in files.items() for key in keys}
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        atomic_write(directory / _INDEX, json.dumps(index, indent=2) + "\n")
    atomic_write(directory / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def _divide(tensors: Mapping[str, CheckpointTensor], max_file_bytes: int) -> dict[str, list[str]]:
    """File name -> keys, in order; a tensor larger than a file may be has one to itself."""
    groups: list[list[str]] = [[]]
    filled = 0
    for key, tensor in tensors.items():
        if groups[-1] and filled + tensor.nbytes > max_file_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(key)
        filled += tensor.nbytes
    if len(groups) == 1:
        return {_SINGLE: groups[0]}
    count = len(groups)
    return {
        f"model-{number:05d}-of-{count:05d}.safetensors": keys
        for number, keys in enumerate(groups, start=1)
    }


def _stored_shapes(
    path: Path, rename: Mapping[str, str], ignore: frozenset[str]
) -> dict[str, tuple[int, ...]]:
    """Our key -> shape of every tensor in a file, from its header alone."""
    with safe_open(path, framework="numpy") as file:
        keys = {_renamed(name, rename): name for name in file.keys()}
        return {
            key: tuple(file.get_slice(name).get_shape())
            for key, name in keys.items()
            if key not in ignore
        }


def _read(
    file: Any,
    name: str,
    shape: tuple[int, ...],
    dtype: DTypeLike | None,
    sharding: Sharding | None,
) -> Array:
    """One tensor on its sharding; each device's part is read and cast by itself."""

    def part(index: tuple[slice, ...]) -> np.ndarray:
        values = file.get_slice(name)[index] if index else file.get_tensor(name)
        return values if dtype is None else values.astype(dtype)

    if sharding is None:
        return jnp.asarray(part((slice(None),) * len(shape)))
    return jax.make_array_from_callback(shape, sharding, part)


def _check(
    directory: str | Path,
    stored: Mapping[str, tuple[int, ...]],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Raises one error that lists every difference between a checkpoint and a model."""
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
        try:
            weight_map = json.loads((directory / _INDEX).read_text())["weight_map"]
            files = [directory / name for name in sorted(set(weight_map.values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{directory / _INDEX} is no index of weights: {error!r}") from error
    else:
        files = [directory / _SINGLE]
    if absent := [path.name for path in files if not path.is_file()]:
        pickled = any(directory.glob("*.bin")) or any(directory.glob("*.pt*"))
        hint = "; pickled weights are not read, save them as safetensors" if pickled else ""
        raise UserError(f"{directory} lacks {', '.join(absent)}{hint}")
    return files


def _renamed(key: str, rename: Mapping[str, str]) -> str:
    for prefix, ours in rename.items():
        if key.startswith(prefix):
            return ours + key.removeprefix(prefix)
    return key
