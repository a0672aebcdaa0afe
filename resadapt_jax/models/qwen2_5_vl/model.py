"""The whole model: its parameter tree, and the path from packed patches to hidden states."""

import jax.numpy as jnp
from jax.typing import DTypeLike

from resadapt_jax.models import parameters
from resadapt_jax.models.kv_cache import KVCache
from resadapt_jax.models.parameters import linear_shapes, swiglu_shapes
from resadapt_jax.models.partition import BATCH, constrain, map_rows
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.models.qwen2_5_vl import text, vision
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig
from resadapt_jax.models.vision_plan import VisionPlan
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params


def patch_dtype(params: Params) -> str:
    """What the tower casts patches to: the dtype of its first weight."""
    return params["visual"]["patch_embed"]["proj"]["weight"].dtype.name


def encode_visual(
    params: Params, config: Qwen2_5VLConfig, patches: Float[Array, "P features"], plan: VisionPlan
) -> Float[Array, "U D"]:
    """What the decoder takes of each merged token (``vision.encode``)."""
    return vision.encode(params, config, patches, plan)


def embed_prompt(
    params: Params,
    config: Qwen2_5VLConfig,
    layout: PromptLayout,
    visual: Float[Array, "B U D"],
) -> Float[Array, "B T D"]:
    """Text embeddings with the visual tokens in their places, for a batch of layouts."""
    index = layout.visual_index
    embeds = text.embed_tokens(params, layout.token_ids)
    placed = jnp.take_along_axis(
        constrain(visual, BATCH), jnp.maximum(index, 0)[:, :, None], axis=1, mode="clip"
    )
    return jnp.where(index[:, :, None] >= 0, placed.astype(embeds.dtype), embeds)


def run_decoder(
    params: Params,
    config: Qwen2_5VLConfig,
    embeds: Float[Array, "B T D"],
    position_ids: Int[Array, "B 3 T"],
    mask: Bool[Array, "B T"],
    cache: KVCache | None = None,
) -> tuple[Float[Array, "B T D"], KVCache]:
    """``text.forward`` over embedded prompts, or over a part of their positions."""
    return text.forward(params, config, embeds, position_ids, mask, cache)


def forward(
    params: Params,
    config: Qwen2_5VLConfig,
    patches: Float[Array, "B P C"],
    plan: VisionPlan,
    layout: PromptLayout,
) -> Float[Array, "B T D"]:
    """Hidden states of a batch of prompts, each with its own packed patches and plan.

    ``text.logits`` turns the positions of interest into logits.
    """
    encode = map_rows(lambda rows, tables: encode_visual(params, config, rows, tables))
    embeds = embed_prompt(params, config, layout, encode(patches, plan))
    hidden, _ = run_decoder(params, config, embeds, layout.position_ids, layout.mask)
    return hidden


def param_shapes(config: Qwen2_5VLConfig) -> parameters.Shapes:
    """Every tensor of the checkpoint: key -> shape, in the published key layout."""
    shapes = _vision_shapes(config.vision) | _text_shapes(config.text)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.text.vocab_size, config.text.hidden_size)
    return shapes


def init_params(
    key: Key[Array, ""], config: Qwen2_5VLConfig, dtype: DTypeLike = jnp.float32
) -> Params:
    """Random parameters for training from scratch (`parameters.init_params`)."""
    return parameters.init_params(key, param_shapes(config), dtype)


def _vision_shapes(config: VisionConfig) -> parameters.Shapes:
    width, patch = config.hidden_size, config.patch_size
    kernel = (width, config.in_channels, config.temporal_patch_size, patch, patch)
    shapes = {"visual.patch_embed.proj.weight": kernel}
    for index in range(config.depth):
        block = f"visual.blocks.{index}"
        shapes |= {f"{block}.norm1.weight": (width,), f"{block}.norm2.weight": (width,)}
        shapes |= linear_shapes(f"{block}.attn.qkv", width, 3 * width, bias=True)
        shapes |= linear_shapes(f"{block}.attn.proj", width, width, bias=True)
        shapes |= swiglu_shapes(f"{block}.mlp", width, config.intermediate_size, bias=True)
    merged = width * config.spatial_merge_size**2
    shapes |= {"visual.merger.ln_q.weight": (width,)}
    shapes |= linear_shapes("visual.merger.mlp.0", merged, merged, bias=True)
    return shapes | linear_shapes("visual.merger.mlp.2", merged, config.out_hidden_size, bias=True)


def _text_shapes(config: TextConfig) -> parameters.Shapes:
    width, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
    shapes = {"model.embed_tokens.weight": (config.vocab_size, width)}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        shapes |= {f"{layer}.input_layernorm.weight": (width,)}
        shapes |= {f"{layer}.post_attention_layernorm.weight": (width,)}
        shapes |= linear_shapes(f"{layer}.self_attn.q_proj", width, width, bias=True)
        shapes |= linear_shapes(f"{layer}.self_attn.k_proj", width, kv_width, bias=True)
        shapes |= linear_shapes(f"{layer}.self_attn.v_proj", width, kv_width, bias=True)
        shapes |= linear_shapes(f"{layer}.self_attn.o_proj", width, width, bias=False)
        shapes |= swiglu_shapes(f"{layer}.mlp", width, config.intermediate_size, bias=False)
    return shapes | {"model.norm.weight": (width,)}
