"""The parameter tree of the encoders."""

import jax.numpy as jnp
from jax.typing import DTypeLike

from resadapt_jax.models import parameters
from resadapt_jax.models.parameters import layer_norm_shapes, linear_shapes, swiglu_shapes
from resadapt_jax.models.smolvlm.config import SmolVLMConfig, TextConfig, VisionConfig
from resadapt_jax.typing import Array, Key, Params


def param_shapes(config: SmolVLMConfig) -> parameters.Shapes:
    """Every tensor that the encoders need: key -> shape. The language head is none of them."""
    joined = config.vision.hidden_size * config.scale_factor**2
    projection = {
        "model.connector.modality_projection.proj.weight": (config.text.hidden_size, joined)
    }
    return _vision_shapes(config.vision) | projection | _text_shapes(config.text)


def init_params(
    key: Key[Array, ""], config: SmolVLMConfig, dtype: DTypeLike = jnp.float32
) -> Params:
    """Random parameters for training from scratch (`parameters.init_params`)."""
    return parameters.init_params(key, param_shapes(config), dtype)


def _vision_shapes(config: VisionConfig) -> parameters.Shapes:
    tower, width, size = "model.vision_model", config.hidden_size, config.patch_size
    shapes = {
        f"{tower}.embeddings.patch_embedding.weight": (width, config.num_channels, size, size),
        f"{tower}.embeddings.patch_embedding.bias": (width,),
        f"{tower}.embeddings.position_embedding.weight": (config.patches_per_side**2, width),
    }
    for index in range(config.num_hidden_layers):
        layer = f"{tower}.encoder.layers.{index}"
        shapes |= layer_norm_shapes(f"{layer}.layer_norm1", width)
        shapes |= layer_norm_shapes(f"{layer}.layer_norm2", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear_shapes(f"{layer}.self_attn.{name}", width, width, bias=True)
        shapes |= linear_shapes(f"{layer}.mlp.fc1", width, config.intermediate_size, bias=True)
        shapes |= linear_shapes(f"{layer}.mlp.fc2", config.intermediate_size, width, bias=True)
    return shapes | layer_norm_shapes(f"{tower}.post_layernorm", width)


def _text_shapes(config: TextConfig) -> parameters.Shapes:
    tower, width = "model.text_model", config.hidden_size
    inner = config.num_attention_heads * config.head_dim
    kv_inner = config.num_key_value_heads * config.head_dim
    shapes = {f"{tower}.embed_tokens.weight": (config.vocab_size, width)}
    for index in range(config.num_hidden_layers):
        layer = f"{tower}.layers.{index}"
        shapes[f"{layer}.input_layernorm.weight"] = (width,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (width,)
        for name, inputs, outputs in (
            ("self_attn.q_proj", width, inner),
            ("self_attn.k_proj", width, kv_inner),
            ("self_attn.v_proj", width, kv_inner),
            ("self_attn.o_proj", inner, width),
        ):
            shapes |= linear_shapes(f"{layer}.{name}", inputs, outputs, bias=False)
        shapes |= swiglu_shapes(f"{layer}.mlp", width, config.intermediate_size, bias=False)
    return shapes | {f"{tower}.norm.weight": (width,)}
