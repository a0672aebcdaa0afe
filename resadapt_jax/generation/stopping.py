"""The tokens that end an answer: a model's own, of two files, and those that a call adds."""

import json
from dataclasses import replace
from pathlib import Path

from resadapt_jax.errors import UserError
from resadapt_jax.models.families import ModelConfig


def stop_tokens(config: ModelConfig, extra: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The tokens after which an answer ends: the model's own and ``extra`` ones, ascending.

    Raises:
        UserError: the model has none of its own, or one is outside its vocabulary.
    """
    own = config.eos_token_id
    if own is None:
        raise UserError("the model's config names no eos_token_id, so no answer would end")
    tokens = tuple(sorted({*(own if isinstance(own, tuple) else (own,)), *extra}))
    if outside := [token for token in tokens if not 0 <= token < config.text.vocab_size]:
        raise UserError(f"stop tokens {outside} are outside {config.text.vocab_size} tokens")
    return tokens


def with_generation_eos(directory: Path, config: ModelConfig) -> ModelConfig:
    """A config that also has the end-of-sequence tokens of ``generation_config.json``, if any.

    Raises:
        UserError: the file is not JSON, its ``eos_token_id`` is neither an id nor a list of them,
            or neither file names a token of the vocabulary.
    """
    path = directory / "generation_config.json"
    try:
        generation = json.loads(path.read_text()) if path.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(generation, dict):
        raise UserError(f"{path}: the config is no JSON object")
    listed = generation.get("eos_token_id")
    listed = [] if listed is None else listed if isinstance(listed, list) else [listed]
    if any(type(token) is not int for token in listed):
        raise UserError(f"{path}: eos_token_id must be an id or a list of ids, got {listed}")
    if listed and config.eos_token_id is None:
        config = replace(config, eos_token_id=tuple(listed))
    try:
        tokens = stop_tokens(config, tuple(listed))
    except UserError as error:
        raise UserError(f"{directory}: {error}") from error
    return replace(config, eos_token_id=tokens if len(tokens) > 1 else tokens[0])
