"""The architecture of a Qwen2.5-VL checkpoint, read from and written to its ``config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from kernels.resize_patchify.spec import CLIP_MEAN, CLIP_STD
from resadapt_jax.models.compute import Compute
from resadapt_jax.models.config_json import (
    check_activation,
    check_model_type,
    hashable,
    listed,
    required,
    token_id,
    typed,
)


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The vision tower. Names are those of ``vision_config`` in ``config.json``."""

    # preprocessor_config.json has them, the same for every released model.
    image_mean: ClassVar[tuple[float, float, float]] = CLIP_MEAN
    image_std: ClassVar[tuple[float, float, float]] = CLIP_STD

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    fullatt_block_indexes: tuple[int, ...]
    in_channels: int = 3
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    tokens_per_second: int = 2
    window_size: int = 112
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    compute: Compute = Compute()

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def window_patches(self) -> int:
        """Side of an attention window in patches."""
        merged = self.window_size // self.spatial_merge_size // self.patch_size
        return merged * self.spatial_merge_size

    @property
    def patch_features(self) -> int:
        """Length of a flattened patch, in the order (channel, time, y, x)."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The decoder. Names are those of ``text_config`` in ``config.json``."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    mrope_section: tuple[int, ...]
    rope_theta: float = 1000000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 32768
    compute: Compute = Compute()

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True)
class Qwen2_5VLConfig:
    """A whole model; hashable, so it can be a static argument of ``jax.jit``."""

    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        text, vision = self.text, self.vision
        if 2 * sum(text.mrope_section) != text.head_dim:
            raise ValueError(
                f"mrope_section {text.mrope_section} must sum to half of head_dim {text.head_dim}"
            )
        if vision.out_hidden_size != text.hidden_size:
            raise ValueError(
                f"the vision tower's out_hidden_size {vision.out_hidden_size} must be the"
                f" decoder's hidden_size {text.hidden_size}"
            )
        if vision.window_patches < 1:
            raise ValueError(f"window_size {vision.window_size} holds no merged token")

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Qwen2_5VLConfig":
        """Reads ``config.json`` in the published (flat) or the transformers 5 (nested) form.

        Raises:
            ValueError: a missing field, or a feature that the port does not have.
        """
        check_model_type(config, "qwen2_5_vl")
        text = config.get("text_config") or config
        tied = config.get("tie_word_embeddings", False) or text.get("tie_word_embeddings", False)
        eos = config.get("eos_token_id", text.get("eos_token_id"))
        return cls(
            text=_text_from_hf(text),
            vision=_vision_from_hf(required(config, "vision_config")),
            image_token_id=token_id(config, "image_token_id"),
            video_token_id=token_id(config, "video_token_id"),
            vision_start_token_id=token_id(config, "vision_start_token_id"),
            vision_end_token_id=token_id(config, "vision_end_token_id"),
            bos_token_id=config.get("bos_token_id", text.get("bos_token_id")),
            eos_token_id=hashable(eos),
            pad_token_id=config.get("pad_token_id", text.get("pad_token_id")),
            tie_word_embeddings=bool(tied),
        )

    def to_hf(self) -> dict[str, Any]:
        """The ``config.json`` that transformers 5 writes for the same model."""
        text, vision = dict(vars(self.text)), dict(vars(self.vision))
        # No property of the weights.
        del text["compute"], vision["compute"]
        # Fixed in transformers' vision tower, so not a field of its config.
        del vision["rms_norm_eps"]
        section = list(text.pop("mrope_section"))
        theta = text.pop("rope_theta")
        text |= {
            "model_type": "qwen2_5_vl_text",
            "hidden_act": "silu",
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": theta,
                "mrope_section": section,
            },
            "bos_token_id": self.bos_token_id,
            "eos_token_id": listed(self.eos_token_id),
            "pad_token_id": self.pad_token_id,
        }
        vision |= {
            "model_type": "qwen2_5_vl_vision",
            "hidden_act": "silu",
            "fullatt_block_indexes": list(self.vision.fullatt_block_indexes),
            "rope_parameters": {"rope_type": "axial", "rope_theta": vision.pop("rope_theta")},
        }
        return {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "text_config": text,
            "vision_config": vision,
            "image_token_id": self.image_token_id,
            "video_token_id": self.video_token_id,
            "vision_start_token_id": self.vision_start_token_id,
            "vision_end_token_id": self.vision_end_token_id,
            "tie_word_embeddings": self.tie_word_embeddings,
        }


def _text_from_hf(text: Mapping[str, Any]) -> TextConfig:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ("default", "mrope"):
        raise ValueError(f"rope type {rope_type!r} is not supported")
    if text.get("use_sliding_window"):
        raise ValueError("sliding-window attention is not supported")
    check_activation(text, "silu")
    heads = required(text, "num_attention_heads")
    # The defaults are those of transformers' Qwen2_5_VLTextConfig.
    return typed(
        TextConfig(
            vocab_size=required(text, "vocab_size"),
            hidden_size=required(text, "hidden_size"),
            intermediate_size=required(text, "intermediate_size"),
            num_hidden_layers=required(text, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=text.get("num_key_value_heads") or heads,
            mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
            rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 1e6))),
            rms_norm_eps=text.get("rms_norm_eps", 1e-5),
            max_position_embeddings=text.get("max_position_embeddings", 32768),
        )
    )


def _vision_from_hf(vision: Mapping[str, Any]) -> VisionConfig:
    check_activation(vision, "silu")
    rope = vision.get("rope_parameters") or {}
    # The defaults are those of transformers' Qwen2_5_VLVisionConfig.
    return typed(
        VisionConfig(
            depth=required(vision, "depth"),
            hidden_size=required(vision, "hidden_size"),
            intermediate_size=required(vision, "intermediate_size"),
            num_heads=required(vision, "num_heads"),
            out_hidden_size=required(vision, "out_hidden_size"),
            fullatt_block_indexes=tuple(vision.get("fullatt_block_indexes", (7, 15, 23, 31))),
            in_channels=vision.get("in_channels", vision.get("in_chans", 3)),
            patch_size=vision.get("patch_size", 14),
            spatial_merge_size=vision.get("spatial_merge_size", 2),
            temporal_patch_size=vision.get("temporal_patch_size", 2),
            tokens_per_second=vision.get("tokens_per_second", 4),
            window_size=vision.get("window_size", 112),
            rope_theta=float(rope.get("rope_theta", 10000.0)),
        )
    )
