"""Configs: Python files that build a frozen dataclass, overridden field by field.

A config file defines ``get_config(arg: str = "")`` returning a frozen dataclass. Any field can be
overridden on the command line::

    python train.py --config configs/toy.py --optimizer.learning-rate 1e-4

Field types that work: bool, int, float, str, ``Path``, ``Enum``, ``Literal``, tuples of these,
``None`` in a union, other frozen dataclasses, and unions of dataclasses. The member of a union is
chosen by the config file; the command line overrides the fields of the chosen member.
"""

import contextlib
import dataclasses
import difflib
import enum
import importlib.util
import io
import json
import sys
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import tyro

from resadapt_jax.errors import CliParser, UserError

ConfigT = TypeVar("ConfigT")


def load_config(path: str | Path, arg: str = "") -> Any:
    """Calls ``get_config(arg)`` of the config file at ``path``.

    Raises ``UserError`` when there is no such file, when running it or its ``get_config`` raises,
    when it has none, or when what that returns is not a frozen dataclass.
    """
    module = _load_module(Path(path))
    if not hasattr(module, "get_config"):
        raise UserError(f"config file {path} defines no get_config")
    with _blamed_on(path):
        config = module.get_config(arg)
    if not dataclasses.is_dataclass(config) or not config.__dataclass_params__.frozen:
        raise UserError(f"get_config of {path} must return a frozen dataclass, got {config!r}")
    return config


def parse_config(argv: Sequence[str] | None = None, *, description: str = "") -> Any:
    """The config named by ``--config PATH [--config-arg ARG]`` with the overrides in ``argv``.

    ``--help`` prints every field of the chosen config, its help text and its value, and exits 0.
    An unknown field, or a value of the wrong type, raises ``UserError`` with one line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = CliParser(description=description, add_help=False, allow_abbrev=False)
    parser.add_argument("--config", metavar="PATH", help="a Python file that defines get_config")
    parser.add_argument("--config-arg", metavar="ARG", default="", help="passed to get_config")
    chosen, overrides = parser.parse_known_args(argv)
    if chosen.config is None:
        if {"-h", "--help"} & set(overrides):
            parser.epilog = "Give --config PATH --help to list the fields of a config."
            parser.print_help()
            raise SystemExit(0)
        raise UserError("--config PATH is required, for example --config configs/toy.py")
    config = load_config(chosen.config, chosen.config_arg)
    return override(config, overrides, prog=f"{parser.prog} --config {chosen.config}")


def override(config: Any, overrides: Sequence[str], *, prog: str = "") -> Any:
    """``config`` with flags such as ``--optimizer.learning-rate 1e-4`` applied.

    Raises ``UserError`` for an unknown field, naming the nearest, and for a value that does not
    parse or that the config's own checks refuse.
    """
    # tyro reports a bad value by printing a box and exiting; the box is read back to raise one line
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            result, unknown = tyro.cli(
                type(config),
                default=config,
                args=list(overrides),
                prog=prog,
                return_unknown_args=True,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.EnumChoicesFromValues),
            )
    except SystemExit as exit_:
        if exit_.code == 0:
            raise
        raise UserError(_box_message(stderr.getvalue())) from None
    if unknown:
        raise UserError(_unknown_message(unknown[0], field_paths(config)))
    return result


def to_json(config: Any) -> str:
    """The resolved config as indented JSON; ``from_json`` gives back an equal config.

    Where a field's type is a union of several dataclasses its object carries the chosen class's
    name under ``kind``.
    """
    return json.dumps(_encode(type(config), config), indent=2) + "\n"


def from_json(text: str, config_type: type[ConfigT]) -> ConfigT:
    """The config of ``config_type`` that ``to_json`` wrote; a field left out keeps its default.

    Raises ``UserError`` naming the first field that is unknown, missing or of the wrong type.
    """
    return _decode(config_type, _parse(text), "")


def differences(saved: str, config: Any, *, ignore: Collection[str] = ()) -> list[str]:
    """What changed since ``saved`` (by ``to_json``), one ``path: before -> now`` per field.

    Args:
        ignore: paths of fields that may change, with all that is in them.

    Raises ``UserError`` when ``saved`` is no JSON object.
    """
    value = _parse(saved)
    if not isinstance(value, dict):
        raise UserError(f"the saved config is not a JSON object: {saved.strip()[:40]}")
    before, now = _flatten(value), _flatten(json.loads(to_json(config)))
    absent = "(absent)"
    return [
        f"{path}: {json.dumps(before.get(path, absent))} -> {json.dumps(now.get(path, absent))}"
        for path in dict.fromkeys((*before, *now))
        if before.get(path, absent) != now.get(path, absent)
        and not any(f"{path}.".startswith(f"{name}.") for name in ignore)
    ]


def field_paths(config: Any, prefix: str = "") -> list[str]:
    """The dotted path of every field that can be overridden, in order of definition."""
    paths = []
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        nested = dataclasses.is_dataclass(value)
        paths.extend(field_paths(value, path + ".") if nested else [path])
    return paths


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The entry of ``known`` most like ``name``, preferring one whose last component is equal.

    None where nothing is like it: a far-fetched guess misleads.
    """
    known = list(known)
    same_leaf = [path for path in known if path.rpartition(".")[2] == name.rpartition(".")[2]]
    if same_leaf:
        return difflib.get_close_matches(name, same_leaf, n=1, cutoff=0.0)[0]
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


def _load_module(path: Path) -> types.ModuleType:
    if not path.exists():
        raise UserError(f"no such config file: {path}")
    if path.is_dir() or path.suffix != ".py":
        raise UserError(f"a config is a Python file, got {path}")
    name = f"resadapt_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # dataclasses defined in the file look their module up to resolve annotations
    sys.modules[name] = module
    with _blamed_on(path):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _blamed_on(path: str | Path) -> Iterator[None]:
    """A config file is the user's code: whatever it raises is the user's to mend."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"config file {path}: {cause}") from error


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"the saved config is not JSON: {error}") from error


def _unknown_message(token: str, paths: Sequence[str]) -> str:
    if not token.startswith("--"):
        return f"unexpected argument {token!r}; override a field with --{_flag(paths[0])} VALUE"
    name = token.removeprefix("--").partition("=")[0]
    suggestion = nearest(name.replace("-", "_"), paths)
    hint = f"did you mean --{_flag(suggestion)}?" if suggestion else "--help lists them all"
    return f"unknown field --{name}; {hint}"


def _flag(path: str) -> str:
    return path.replace("_", "-")


def _box_message(text: str) -> str:
    rows = [line.strip("│ ") for line in text.splitlines() if line.startswith("│")]
    rule = next((i for i, row in enumerate(rows) if row.startswith("─")), len(rows))
    return " ".join(rows[:rule]) or " ".join(text.split())


def _members(hint: Any) -> list[Any]:
    """The members of a union, else the type alone."""
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return list(typing.get_args(hint)) if union else [hint]


def _dataclasses(hint: Any) -> dict[str, type]:
    return {
        member.__name__: member for member in _members(hint) if dataclasses.is_dataclass(member)
    }


def _encode(hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(type(value))
        tag = {"kind": type(value).__name__} if len(_dataclasses(hint)) > 1 else {}
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return tag | {name: _encode(hints[name], item) for name, item in fields.items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_encode(None, item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a config holds no {type(value).__name__}: {value!r}")


def _decode(hint: Any, value: Any, path: str) -> Any:
    choices = _dataclasses(hint)
    if choices and isinstance(value, dict):
        return _decode_dataclass(choices, value, path)
    for member in _members(hint):
        with contextlib.suppress(_Mismatch):
            return _decode_plain(member, value, path)
    raise UserError(f"config field {path or '(whole)'} does not accept {value!r}")


def _decode_dataclass(choices: dict[str, type], value: dict[str, Any], path: str) -> Any:
    value = dict(value)
    kind = value.pop("kind", None) if len(choices) > 1 else next(iter(choices))
    if kind not in choices:
        raise UserError(f"config field {path}.kind is {kind!r}, not one of {', '.join(choices)}")
    hints = typing.get_type_hints(choices[kind])
    prefix = f"{path}." if path else ""
    for name in value:
        if name not in hints:
            close = nearest(name, hints)
            hint = f"; did you mean {prefix}{close}?" if close else ""
            raise UserError(f"unknown config field {prefix}{name}{hint}")
    items = {name: _decode(hints[name], item, prefix + name) for name, item in value.items()}
    try:
        return choices[kind](**items)
    except (TypeError, ValueError) as error:
        raise UserError(f"config {path or kind}: {error}") from None


class _Mismatch(Exception):
    """A JSON value that does not belong to the type tried."""


def _decode_plain(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list):
        repeated = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(repeated) == len(value):
            return tuple(_decode(*pair, path) for pair in zip(repeated, value, strict=True))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        with contextlib.suppress(ValueError):
            return hint(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if hint in (bool, int, float, str, type(None)) and type(value) is hint:
        return value
    raise _Mismatch


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    prefix = f"{path}." if path else ""
    leaves = [_flatten(item, prefix + name) for name, item in value.items()]
    return {name: item for leaf in leaves for name, item in leaf.items()}
