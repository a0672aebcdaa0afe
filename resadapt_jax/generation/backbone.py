"""A backbone as loaded from a Hugging Face directory: architecture, weights and tokenizer."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from resadapt_jax.errors import UserError
from resadapt_jax.generation.answer import stop_tokens
from resadapt_jax.models.families import ModelConfig, load_hf
from resadapt_jax.models.prompt_text import check_special_tokens
from resadapt_jax.shipped import TOY_BACKBONE
from resadapt_jax.typing import Params


class Backbone(NamedTuple):
    """What answers; unchanged by whatever trains the allocator."""

    config: ModelConfig
    params: Params
    tokenizer: PreTrainedTokenizerBase

    def decode(self, token_ids) -> str:
        """The text of generated ids, without special tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)


def load_backbone(directory: str | Path = "") -> Backbone:
    """Reads a backbone; the shipped tiny one if no directory is named.

    Its answers end at the ``eos_token_id`` of ``config.json`` and of ``generation_config.json``.

    Raises:
        UserError: the directory lacks something, holds a model of no supported family, or names
            no ``eos_token_id``.
    """
    directory = Path(directory) if directory else TOY_BACKBONE
    config, params = load_hf(directory)
    config = with_generation_eos(directory, config)
    return Backbone(config, params, load_tokenizer(directory, config))


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


def load_tokenizer(directory: Path, config: ModelConfig) -> PreTrainedTokenizerBase:
    """Reads the tokenizer of a model directory.

    Raises:
        UserError: there is none that can be read, it has no chat template, or its visual tokens
            are not those of the model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # a damaged file raises whatever the parsers of transformers do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"no tokenizer in {directory}: {reason}") from error
    try:
        check_special_tokens(tokenizer, config)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from error
    if tokenizer.chat_template is None:
        raise UserError(f"{directory}: the tokenizer has no chat template")
    return tokenizer
