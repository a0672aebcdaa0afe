"""The architecture of a SmolVLM2's encoders, read from and written to its ``config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resadapt_jax.models.compute import Compute
from resadapt_jax.models.config_json import check_activation, check_model_type, required, typed


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The vision tower, a SigLIP. Names are those of ``vision_config`` in ``config.json``."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    compute: Compute = Compute()

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patches_per_side(self) -> int:
        """Side of the position table, in patches."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text tower, a Llama. Names are those of ``text_config`` in ``config.json``."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 8192
    compute: Compute = Compute()


@dataclass(frozen=True, kw_only=True)
class SmolVLMConfig:
    """The encoders and the connector; hashable, so a static argument of ``jax.jit``.

    Attributes:
        scale_factor: side in patches of the square block that the connector makes one token.
        image_token_id: of the whole model; nothing here uses it.
    """

    text: TextConfig
    vision: VisionConfig
    scale_factor: int
    image_token_id: int

    def __post_init__(self) -> None:
        text, vision = self.text, self.vision
        if vision.hidden_size % vision.num_attention_heads:
            raise ValueError(
                f"the vision tower's hidden_size {vision.hidden_size} does not divide into"
                f" {vision.num_attention_heads} heads"
            )
        if text.num_attention_heads % text.num_key_value_heads:
            raise ValueError(
                f"{text.num_attention_heads} query heads cannot share"
                f" {text.num_key_value_heads} key-value heads"
            )
        if vision.patches_per_side % self.scale_factor:
            raise ValueError(
                f"{vision.patches_per_side} patches per side do not divide into blocks of"
                f" scale_factor {self.scale_factor}"
            )

    @property
    def num_tokens(self) -> int:
        """Tokens of one frame of the checkpoint's own size."""
        return (self.vision.patches_per_side // self.scale_factor) ** 2

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "SmolVLMConfig":
        """Reads ``config.json``; the defaults are those of transformers.

        Raises:
            ValueError: a missing field, or a feature that the port does not have.
        """
        check_model_type(config, "smolvlm")
        return cls(
            text=_text_from_hf(required(config, "text_config")),
            vision=_vision_from_hf(required(config, "vision_config")),
            scale_factor=config.get("scale_factor", 2),
            image_token_id=config.get("image_token_id", 128257),
        )

    def to_hf(self) -> dict[str, Any]:
        """A ``config.json`` from which transformers builds the model without its head."""
        text, vision = dict(vars(self.text)), dict(vars(self.vision))
        # No property of the weights.
        del text["compute"], vision["compute"]
        rope = {"rope_type": "default", "rope_theta": text.pop("rope_theta")}
        text |= {"model_type": "llama", "hidden_act": "silu", "rope_parameters": rope}
        vision |= {"model_type": "smolvlm_vision", "hidden_act": "gelu_pytorch_tanh"}
        return {
            "architectures": ["SmolVLMModel"],
            "model_type": "smolvlm",
            "text_config": text,
            "vision_config": vision,
            "scale_factor": self.scale_factor,
            "image_token_id": self.image_token_id,
            "tie_word_embeddings": False,
        }


def _text_from_hf(text: Mapping[str, Any]) -> TextConfig:
    if (kind := text.get("model_type", "llama")) != "llama":
        raise ValueError(f"the text tower is {kind!r}, expected 'llama'")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise ValueError(f"rope type {rope_type!r} is not supported")
    check_activation(text, "silu")
    for name in ("attention_bias", "mlp_bias"):
        if text.get(name):
            raise ValueError(f"{name} is not supported")
    hidden, heads = required(text, "hidden_size"), required(text, "num_attention_heads")
    # The defaults are those of transformers' LlamaConfig.
    return typed(
        TextConfig(
            vocab_size=required(text, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=required(text, "intermediate_size"),
            num_hidden_layers=required(text, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or hidden // heads,
            rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 10000.0))),
            rms_norm_eps=text.get("rms_norm_eps", 1e-6),
            max_position_embeddings=text.get("max_position_embeddings", 2048),
        )
    )


def _vision_from_hf(vision: Mapping[str, Any]) -> VisionConfig:
    check_activation(vision, "gelu_pytorch_tanh")
    # The defaults are those of transformers' SmolVLMVisionConfig; released files rely on some.
    return typed(
        VisionConfig(
            hidden_size=vision.get("hidden_size", 1152),
            intermediate_size=vision.get("intermediate_size", 3072),
            num_hidden_layers=vision.get("num_hidden_layers", 12),
            num_attention_heads=vision.get("num_attention_heads", 16),
            image_size=_side(vision, "image_size", 224),
            patch_size=_side(vision, "patch_size", 32),
            num_channels=vision.get("num_channels", 3),
            layer_norm_eps=vision.get("layer_norm_eps", 1e-6),
        )
    )


def _side(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if not isinstance(value, int):
        raise ValueError(f"{name} {value!r} is not the side of a square")
    return value
