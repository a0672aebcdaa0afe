"""Qwen2.5-VL checkpoints in and out of Hugging Face directories."""

from pathlib import Path

from jax.sharding import Mesh
from jax.typing import DTypeLike

from resadapt_jax.models import hf
from resadapt_jax.models.partition import shardings
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig
from resadapt_jax.models.qwen2_5_vl.model import param_shapes
from resadapt_jax.models.qwen2_5_vl.partition import PARTITION
from resadapt_jax.typing import Params

# transformers 5 holds the modules under these names; published files use the shorter ones.
_IN_MEMORY = {"model.visual.": "visual.", "model.language_model.": "model."}


def read_config(directory: str | Path) -> Qwen2_5VLConfig:
    """The architecture that ``config.json`` describes.

    Raises:
        UserError: it is unreadable or asks for what the port does not have.
    """
    return hf.load_config(directory, Qwen2_5VLConfig.from_hf)


def load_hf(
    directory: str | Path, dtype: DTypeLike | None = None, mesh: Mesh | None = None
) -> tuple[Qwen2_5VLConfig, Params]:
    """Reads a model from an HF directory.

    Args:
        directory: ``config.json`` and one or many safetensors files, in the published key layout
            or in transformers 5's own.
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
        rename=_IN_MEMORY,
        ignore=ignore,
        dtype=dtype,
        shardings=None if mesh is None else shardings(shapes, PARTITION, mesh),
    )
    return config, params


def save_hf(directory: str | Path, config: Qwen2_5VLConfig, params: Params) -> None:
    """Writes a model so that `load_hf` and transformers read it back (the tokenizer excepted)."""
    hf.save(directory, config.to_hf(), params)
