"""The whole model: its parameter tree, and the path from packed patches to hidden states."""

import math

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.typing import DTypeLike

from resadapt_jax.models.prompt import PromptLayout
from resadapt_jax.models.qwen2_5_vl import text, vision
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig, TextConfig, VisionConfig
from resadapt_jax.models.vision_plan import VisionPlan
from resadapt_jax.typing import Array, Float, Key, Params


def embed_prompt(
    params: Params,
    config: Qwen2_5VLConfig,
    layout: PromptLayout,
    visual: Float[Array, "B U D"],
) -> Float[Array, "B T D"]:
    """Text embeddings with the visual tokens in their places, for a batch of layouts."""
    index = layout.visual_index
    embeds = text.embed_tokens(params, layout.token_ids)
    placed = jnp.take_along_axis(visual, jnp.maximum(index, 0)[:, :, None], axis=1)
    return jnp.where(index[:, :, None] >= 0, placed.astype(embeds.dtype), embeds)


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
    visual = jax.vmap(lambda rows, tables: vision.encode(params, config, rows, tables))(
        patches, plan
    )
    embeds = embed_prompt(params, config, layout, visual)
    hidden, _ = text.forward(params, config, embeds, layout.position_ids, layout.mask)
    return hidden


def param_shapes(config: Qwen2_5VLConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint: key -> shape, in the published key layout."""
    shapes = _vision_shapes(config.vision) | _text_shapes(config.text)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.text.vocab_size, config.text.hidden_size)
    return shapes


def init_params(
    key: Key[Array, ""], config: Qwen2_5VLConfig, dtype: DTypeLike = jnp.float32
) -> Params:
    """Random parameters for training from scratch.

    Matrices are normal with variance 1 / fan-in, embeddings normal with standard deviation 0.02,
    norms 1, biases 0.
    """
    params = {}
    for index, (name, shape) in enumerate(sorted(param_shapes(config).items())):
        noise = jax.random.fold_in(key, index)
        if name.endswith("bias"):
            params[name] = jnp.zeros(shape, dtype)
        elif len(shape) == 1:
            params[name] = jnp.ones(shape, dtype)
        else:
            fan_in = math.prod(shape[1:])
            scale = 0.02 if "embed_tokens" in name else fan_in**-0.5
            params[name] = (scale * jax.random.normal(noise, shape)).astype(dtype)
    return traverse_util.unflatten_dict(params, sep=".")


def _linear_shapes(name: str, inputs: int, outputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    shapes = {f"{name}.weight": (outputs, inputs)}
    return shapes | {f"{name}.bias": (outputs,)} if bias else shapes


def _mlp_shapes(name: str, width: int, hidden: int, bias: bool) -> dict[str, tuple[int, ...]]:
    return (
        _linear_shapes(f"{name}.gate_proj", width, hidden, bias)
        | _linear_shapes(f"{name}.up_proj", width, hidden, bias)
        | _linear_shapes(f"{name}.down_proj", hidden, width, bias)
    )


def _vision_shapes(config: VisionConfig) -> dict[str, tuple[int, ...]]:
    width, patch = config.hidden_size, config.patch_size
    kernel = (width, config.in_channels, config.temporal_patch_size, patch, patch)
    shapes = {"visual.patch_embed.proj.weight": kernel}
    for index in range(config.depth):
        block = f"visual.blocks.{index}"
        shapes |= {f"{block}.norm1.weight": (width,), f"{block}.norm2.weight": (width,)}
        shapes |= _linear_shapes(f"{block}.attn.qkv", width, 3 * width, bias=True)
        shapes |= _linear_shapes(f"{block}.attn.proj", width, width, bias=True)
        shapes |= _mlp_shapes(f"{block}.mlp", width, config.intermediate_size, bias=True)
    merged = width * config.spatial_merge_size**2
    shapes |= {"visual.merger.ln_q.weight": (width,)}
    shapes |= _linear_shapes("visual.merger.mlp.0", merged, merged, bias=True)
    return shapes | _linear_shapes("visual.merger.mlp.2", merged, config.out_hidden_size, bias=True)


def _text_shapes(config: TextConfig) -> dict[str, tuple[int, ...]]:
    width, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
    shapes = {"model.embed_tokens.weight": (config.vocab_size, width)}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        shapes |= {f"{layer}.input_layernorm.weight": (width,)}
        shapes |= {f"{layer}.post_attention_layernorm.weight": (width,)}
        shapes |= _linear_shapes(f"{layer}.self_attn.q_proj", width, width, bias=True)
        shapes |= _linear_shapes(f"{layer}.self_attn.k_proj", width, kv_width, bias=True)
        shapes |= _linear_shapes(f"{layer}.self_attn.v_proj", width, kv_width, bias=True)
        shapes |= _linear_shapes(f"{layer}.self_attn.o_proj", width, width, bias=False)
        shapes |= _mlp_shapes(f"{layer}.mlp", width, config.intermediate_size, bias=False)
    return shapes | {"model.norm.weight": (width,)}
