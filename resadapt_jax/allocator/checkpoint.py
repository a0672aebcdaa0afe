"""A trained allocator as a directory: config.json, model.safetensors and a tokenizer's files.

With the thumbnail encoder it holds all that an allocation needs and can be moved or shipped by
itself. A SmolVLM2 is not copied: its directory is named, and recognised on loading.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import jax
from flax import traverse_util
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from resadapt_jax.allocator import AllocatorConfig, ScaleRange, ThumbnailConfig, ThumbnailEncoder
from resadapt_jax.allocator.network import init_params
from resadapt_jax.allocator.smolvlm_encoder import SmolVLMEncoder, SmolVLMSource, open_source
from resadapt_jax.config import from_json, to_json
from resadapt_jax.errors import UserError
from resadapt_jax.models import hf
from resadapt_jax.models.tokenizer import read_tokenizer
from resadapt_jax.typing import Params


@dataclass(frozen=True, kw_only=True)
class TrainedAllocatorConfig:
    """What fixes the shape of a trained allocator and the meaning of its actions."""

    network: AllocatorConfig
    encoder: ThumbnailConfig | SmolVLMSource
    vocab_size: int
    """Rows of the encoder's text table."""
    scale_range: ScaleRange = field(default_factory=ScaleRange)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedAllocator:
    """Network, frozen encoder and tokenizer that belong together.

    Attributes:
        params: of the network.
        tokenizer: of the encoder's text table; the thumbnail's is the backbone's.
    """

    config: TrainedAllocatorConfig
    params: Params
    encoder: ThumbnailEncoder | SmolVLMEncoder
    tokenizer: PreTrainedTokenizerBase


def save_allocator(directory: str | Path, allocator: TrainedAllocator) -> None:
    """Write a directory that `load_allocator` reads back."""
    tensors = {"network": allocator.params}
    if isinstance(allocator.encoder, ThumbnailEncoder):
        tensors["encoder"] = {"text_table": allocator.encoder.text_table}
    hf.save(directory, json.loads(to_json(allocator.config)), tensors)
    allocator.tokenizer.save_pretrained(directory)


def load_allocator(
    directory: str | Path, *, smolvlm_directory: str | Path | None = None
) -> TrainedAllocator:
    """Read an allocator from the directory that `save_allocator` wrote.

    Args:
        directory: of the allocator.
        smolvlm_directory: where its SmolVLM2 lies now, if not where it lay when it was recorded.

    Raises:
        UserError: a file is absent or unreadable, the tensors are not those of the config, or the
            SmolVLM2 is gone or not the recorded one; or there is none and one is given.
    """
    directory = Path(directory)
    config = read_config(directory)
    tensors = _load_tensors(directory, config)
    tokenizer = read_tokenizer(directory)
    if isinstance(config.encoder, ThumbnailConfig):
        if smolvlm_directory is not None:
            raise UserError(f"the allocator at {directory} was trained without a SmolVLM2")
        encoder = ThumbnailEncoder(
            text_table=tensors["encoder"]["text_table"], config=config.encoder
        )
    else:
        encoder, _ = open_source(config.encoder, smolvlm_directory)
    return TrainedAllocator(
        config=config, params=tensors["network"], encoder=encoder, tokenizer=tokenizer
    )


def load_network(directory: str | Path) -> Params:
    """The network's parameters alone; a SmolVLM2 need not be there.

    Raises:
        UserError: a file is absent or unreadable, or the tensors are not those of the config.
    """
    return _load_tensors(Path(directory), read_config(directory))["network"]


def read_config(directory: str | Path) -> TrainedAllocatorConfig:
    """What an allocator's directory says of it; neither its weights nor its SmolVLM2 are read.

    Raises:
        UserError: there is no allocator, or its config is unreadable.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"no allocator at {directory}")
    try:
        return from_json(json.dumps(hf.read_config(directory)), TrainedAllocatorConfig)
    except (OSError, ValueError) as error:
        raise UserError(_one_line(error, directory)) from error


def _load_tensors(directory: Path, config: TrainedAllocatorConfig) -> Params:
    try:
        return hf.load_params(directory, _shapes(config), rename={})
    except (UserError, SafetensorError, OSError, ValueError) as error:
        raise UserError(_one_line(error, directory)) from error


def _shapes(config: TrainedAllocatorConfig) -> dict[str, tuple[int, ...]]:
    network = jax.eval_shape(lambda key: init_params(key, config.network), jax.random.key(0))
    flat = traverse_util.flatten_dict({"network": network}, sep=".")
    shapes = {name: leaf.shape for name, leaf in flat.items()}
    if isinstance(config.encoder, ThumbnailConfig):
        shapes["encoder.text_table"] = (config.vocab_size, config.network.text_width)
    return shapes


def _one_line(error: Exception, directory: Path) -> str:
    """The first of the problems found, and how many more there are."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first, *problems = lines or [type(error).__name__]
    if str(directory) not in first:
        first = f"cannot read {directory}: {first}"
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{first} {problems[0]}{more}" if problems else first
