"""SmolVLM2 checkpoints in and out of Hugging Face directories."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from jax.typing import DTypeLike

from resadapt_jax.errors import UserError
from resadapt_jax.models import hf
from resadapt_jax.models.partition import shardings
from resadapt_jax.models.smolvlm.config import SmolVLMConfig
from resadapt_jax.models.smolvlm.model import param_shapes
from resadapt_jax.models.smolvlm.partition import PARTITION
from resadapt_jax.models.smolvlm.preprocess import DEFAULT_FILTER, FrameFilter, PreprocessConfig
from resadapt_jax.typing import Params

# transformers saves the model without its head under these shorter names.
_HEADLESS = {f"{name}.": f"model.{name}." for name in ("vision_model", "connector", "text_model")}


def load_hf(
    directory: str | Path, dtype: DTypeLike | None = None, mesh: Mesh | None = None
) -> tuple[SmolVLMConfig, Params]:
    """Reads the encoders of a model from an HF directory; the language head is never loaded.

    Args:
        directory: ``config.json`` and one or many safetensors files.
        dtype: cast the weights to it; ``None`` keeps the file's.
        mesh: tensors go straight to where `PARTITION` puts them on it; without one, to the
            default device.

    Raises:
        UserError: an unreadable or unsupported config; any missing, unexpected or misshaped
            tensors, all listed in one message.
    """
    config = hf.load_config(directory, SmolVLMConfig.from_hf)
    shapes = param_shapes(config)
    params = hf.load_params(
        directory,
        shapes,
        rename=_HEADLESS,
        ignore=frozenset({"lm_head.weight"}),
        dtype=dtype,
        shardings=None if mesh is None else shardings(shapes, PARTITION, mesh),
    )
    return config, params


def save_hf(directory: str | Path, config: SmolVLMConfig, params: Params) -> None:
    """Writes encoders so that `load_hf` and transformers' ``SmolVLMModel`` read them back."""
    hf.save(directory, config.to_hf(), params)


def load_preprocess(
    directory: str | Path, config: SmolVLMConfig, filter: FrameFilter = DEFAULT_FILTER
) -> PreprocessConfig:
    """How frames become pixels: the video settings of the directory's processor.

    They are looked for in ``processor_config.json`` (transformers 5), then in
    ``video_preprocessor_config.json`` and ``preprocessor_config.json``. Without any of them a frame
    is resized to ``image_size`` of the vision tower, with mean and deviation 0.5.

    Raises:
        UserError: an unreadable file, or a frame size that does not divide into tokens.
    """
    settings = _processor_settings(Path(directory))
    square = config.vision.image_size
    video_size = settings.get("video_sampling", {}).get("video_size", settings.get("size", {}))
    size = settings.get("max_image_size", {}).get("longest_edge", square)
    block = config.vision.patch_size * config.scale_factor
    if size % block:
        raise UserError(
            f"{directory}: frames of {size} pixels do not divide into blocks of {block}"
        )
    return PreprocessConfig(
        size=size,
        longest_edge=video_size.get("longest_edge", size),
        filter=filter,
        mean=tuple(settings.get("image_mean", (0.5, 0.5, 0.5))),
        std=tuple(settings.get("image_std", (0.5, 0.5, 0.5))),
    )


def _processor_settings(directory: Path) -> Mapping[str, Any]:
    """The first of the processor's files that says how large a frame is."""
    whole = _read_json(directory / "processor_config.json")
    for settings in (
        whole.get("video_processor", {}),
        _read_json(directory / "video_preprocessor_config.json"),
        whole.get("image_processor", {}),
        _read_json(directory / "preprocessor_config.json"),
    ):
        if "max_image_size" in settings:
            return settings
    return {}


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: the settings are no JSON object")
    return settings
