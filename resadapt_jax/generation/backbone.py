"""A backbone as loaded from a Hugging Face directory: architecture, weights and tokenizer."""

from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh
from jax.typing import DTypeLike
from transformers import PreTrainedTokenizerBase

from resadapt_jax.errors import UserError
from resadapt_jax.generation.stopping import with_generation_eos
from resadapt_jax.models.families import ModelConfig, load_hf
from resadapt_jax.models.prompt_builder import check_tokenizer
from resadapt_jax.models.tokenizer import read_tokenizer
from resadapt_jax.shipped import TOY_BACKBONE
from resadapt_jax.typing import Params


class Backbone(NamedTuple):
    """What answers. Training an allocator leaves it as it is; joint training starts from it."""

    config: ModelConfig
    params: Params
    tokenizer: PreTrainedTokenizerBase

    def decode(self, token_ids) -> str:
        """The text of generated ids, without special tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)


def load_backbone(
    directory: str | Path = "", dtype: DTypeLike | None = None, mesh: Mesh | None = None
) -> Backbone:
    """Reads a backbone; the shipped tiny one if no directory is named.

    Its answers end at the ``eos_token_id`` of ``config.json`` and of ``generation_config.json``.

    Args:
        dtype: of the weights; None keeps the files'.
        mesh: where the weights go, by the family's partition table; None: the default device.

    Raises:
        UserError: the directory lacks something, holds a model of no supported family, or names
            no ``eos_token_id``.
    """
    directory = Path(directory) if directory else TOY_BACKBONE
    config, params = load_hf(directory, dtype, mesh)
    config = with_generation_eos(directory, config)
    return Backbone(config, params, load_tokenizer(directory, config))


def load_tokenizer(directory: Path, config: ModelConfig) -> PreTrainedTokenizerBase:
    """Reads the tokenizer of a model directory.

    Raises:
        UserError: there is none that can be read, it has no chat template, or its visual tokens
            are not those of the model.
    """
    tokenizer = read_tokenizer(directory)
    try:
        check_tokenizer(tokenizer, config)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from error
    return tokenizer
