"""Qwen3-VL checkpoints in and out of Hugging Face directories."""

from pathlib import Path

from jax.sharding import Mesh
from jax.typing import DTypeLike

from resadapt_jax.models import hf
from resadapt_jax.models.partition import shardings
from resadapt_jax.models.qwen3_vl.config import Qwen3VLConfig
from resadapt_jax.models.qwen3_vl.model import param_shapes
from resadapt_jax.models.qwen3_vl.partition import PARTITION
from resadapt_jax.typing import Params


def read_config(directory: str | Path) -> Qwen3VLConfig:
    """The architecture that ``config.json`` describes.

    Raises:
        UserError: it is unreadable or asks for what the port does not have.
    """
    return hf.load_config(directory, Qwen3VLConfig.from_hf)


def load_hf(
    directory: str | Path, dtype: DTypeLike | None = None, mesh: Mesh | None = None
) -> tuple[Qwen3VLConfig, Params]:
    """Reads a model from an HF directory.

    Args:
        directory: ``config.json`` and one or many safetensors files.
        dtype: cast the weights to it; ``None`` keeps the file's.
        mesh: tensors go straight to where `PARTITION` puts them on it; without one, to the
            default device.

    Raises:
        UserError: an unreadable or unsupported config; any missing, unexpected or misshaped
            tensors, all listed in one message.
    """
    config = read_config(directory)
    # A tied head may be stored all the same; it equals the embedding.
    ignore = frozenset({"lm_head.weight"} if config.tie_word_embeddings else ())
    shapes = param_shapes(config)
    params = hf.load_params(
        directory,
        shapes,
        rename={},
        ignore=ignore,
        dtype=dtype,
        shardings=None if mesh is None else shardings(shapes, PARTITION, mesh),
    )
    return config, params


def save_hf(directory: str | Path, config: Qwen3VLConfig, params: Params) -> None:
    """Writes a model so that `load_hf` and transformers read it back (the tokenizer excepted)."""
    hf.save(directory, config.to_hf(), params)
