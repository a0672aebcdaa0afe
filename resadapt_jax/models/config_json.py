"""Reading and writing single fields of a checkpoint's ``config.json``."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints


def required(config: Mapping[str, Any], name: str) -> Any:
    """A field that has no default.

    Raises:
        ValueError: it is absent or null.
    """
    if config.get(name) is None:
        raise ValueError(f"config.json has no {name!r}")
    return config[name]


def token_id(config: Mapping[str, Any], name: str) -> int:
    """A field that is the id of a token.

    Raises:
        ValueError: it is absent, null or no integer.
    """
    if type(value := required(config, name)) is not int:
        raise ValueError(f"{name} must be a token id, got {value!r}")
    return value


ConfigT = TypeVar("ConfigT")


def typed(record: ConfigT) -> ConfigT:
    """A frozen dataclass read from JSON, its numbers being of the kinds that it declares.

    Raises:
        ValueError: names the first field that is not, and its value.
    """
    kinds = {int: int, float: (int, float), bool: bool, tuple[int, ...]: tuple}
    for name, hint in get_type_hints(type(record)).items():
        value = getattr(record, name)
        if hint not in kinds:
            continue
        right = isinstance(value, kinds[hint]) and (hint is bool or not isinstance(value, bool))
        if not right or (isinstance(value, tuple) and any(type(x) is not int for x in value)):
            raise ValueError(f"{name} is {value!r} in config.json")
    return record


def check_activation(config: Mapping[str, Any], expected: str) -> None:
    """Refuses an activation that the port does not have.

    Raises:
        ValueError: names both.
    """
    if (activation := config.get("hidden_act", expected)) != expected:
        raise ValueError(f"hidden_act {activation!r} is not supported, expected {expected!r}")


def check_model_type(config: Mapping[str, Any], expected: str) -> None:
    """Refuses the config of another architecture.

    Raises:
        ValueError: names both.
    """
    if (model_type := config.get("model_type")) != expected:
        raise ValueError(f"model_type is {model_type!r}, expected {expected!r}")


def hashable(token_ids: int | list[int] | None) -> int | tuple[int, ...] | None:
    """One or several token ids, for a field of a frozen config.

    Raises:
        ValueError: one is no integer.
    """
    several = token_ids if isinstance(token_ids, list) else [token_ids]
    if token_ids is not None and any(type(token) is not int for token in several):
        raise ValueError(f"eos_token_id must be an id or a list of ids, got {token_ids!r}")
    return tuple(several) if isinstance(token_ids, list) else token_ids


def listed(token_ids: int | tuple[int, ...] | None) -> int | list[int] | None:
    """One or several token ids, for JSON."""
    return list(token_ids) if isinstance(token_ids, tuple) else token_ids
