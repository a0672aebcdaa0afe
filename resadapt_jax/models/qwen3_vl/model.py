"""The whole model: its parameter tree, and the path from packed patches to hidden states.

Visual entries have one temporal patch each, as transformers 5 numbers their positions: a video of
several is that many entries, each behind its own time (`prompt_builder.build_prompt`).
"""

import flax.struct
import jax.numpy as jnp
from jax.typing import DTypeLike

from resadapt_jax.models import parameters
from resadapt_jax.models.kv_cache import KVCache
from resadapt_jax.models.parameters import layer_norm_shapes, linear_shapes, swiglu_shapes
from resadapt_jax.models.partition import BATCH, constrain, map_rows
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.models.qwen3_vl import text, vision
from resadapt_jax.models.qwen3_vl.config import Qwen3VLConfig, TextConfig, VisionConfig
from resadapt_jax.models.vision_plan import VisionPlan
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params


@flax.struct.dataclass
class PromptEmbeds:
    """A batch of prompts as the decoder takes it.

    Attributes:
        embeds: text embeddings with the visual tokens in their places.
        deepstack: per tap, what is added after the decoder layer of the same index; 0 at text.
    """

    embeds: Float[Array, "B T D"]
    deepstack: tuple[Float[Array, "B T D"], ...]


def patch_dtype(params: Params) -> str:
    """What the tower casts patches to: the dtype of its first weight."""
    return params["model"]["visual"]["patch_embed"]["proj"]["weight"].dtype.name


def encode_visual(
    params: Params, config: Qwen3VLConfig, patches: Float[Array, "P features"], plan: VisionPlan
) -> Float[Array, "U W"]:
    """What the decoder takes of each merged token, in one row: the token, then its deepstack.

    One array, so that whoever gathers, repeats or drops tokens need not know what a row holds.
    """
    features = vision.encode(params, config, patches, plan)
    return jnp.concatenate([features.tokens, *features.deepstack], axis=-1)


def embed_prompt(
    params: Params,
    config: Qwen3VLConfig,
    layout: PromptLayout,
    visual: Float[Array, "B U W"],
) -> PromptEmbeds:
    """Places rows of `encode_visual` among the text embeddings, for a batch of layouts."""
    index = layout.visual_index[:, :, None]
    embeds = text.embed_tokens(params, layout.token_ids)
    placed = jnp.take_along_axis(
        constrain(visual, BATCH), jnp.maximum(index, 0), axis=1, mode="clip"
    ).astype(embeds.dtype)
    parts = jnp.split(placed, 1 + len(config.vision.deepstack_visual_indexes), axis=-1)
    return PromptEmbeds(
        embeds=jnp.where(index >= 0, parts[0], embeds),
        deepstack=tuple(jnp.where(index >= 0, part, 0) for part in parts[1:]),
    )


def run_decoder(
    params: Params,
    config: Qwen3VLConfig,
    embeds: PromptEmbeds,
    position_ids: Int[Array, "B 3 T"],
    mask: Bool[Array, "B T"],
    cache: KVCache | None = None,
) -> tuple[Float[Array, "B T D"], KVCache]:
    """``text.forward`` over embedded prompts, or over the same positions of all that they hold."""
    return text.forward(params, config, embeds.embeds, position_ids, mask, cache, embeds.deepstack)


def forward(
    params: Params,
    config: Qwen3VLConfig,
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


def param_shapes(config: Qwen3VLConfig) -> parameters.Shapes:
    """Every tensor of the checkpoint: key -> shape, in the published key layout."""
    shapes = _vision_shapes(config.vision) | _text_shapes(config.text)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.text.vocab_size, config.text.hidden_size)
    return shapes


def init_params(
    key: Key[Array, ""], config: Qwen3VLConfig, dtype: DTypeLike = jnp.float32
) -> Params:
    """Random parameters for training from scratch (`parameters.init_params`)."""
    return parameters.init_params(key, param_shapes(config), dtype)


def _vision_shapes(config: VisionConfig) -> parameters.Shapes:
    width, patch = config.hidden_size, config.patch_size
    kernel = (width, config.in_channels, config.temporal_patch_size, patch, patch)
    tower = "model.visual"
    shapes = {
        f"{tower}.patch_embed.proj.weight": kernel,
        f"{tower}.patch_embed.proj.bias": (width,),
        f"{tower}.pos_embed.weight": (config.num_position_embeddings, width),
    }
    for index in range(config.depth):
        block = f"{tower}.blocks.{index}"
        shapes |= layer_norm_shapes(f"{block}.norm1", width)
        shapes |= layer_norm_shapes(f"{block}.norm2", width)
        shapes |= linear_shapes(f"{block}.attn.qkv", width, 3 * width, bias=True)
        shapes |= linear_shapes(f"{block}.attn.proj", width, width, bias=True)
        hidden = config.intermediate_size
        shapes |= linear_shapes(f"{block}.mlp.linear_fc1", width, hidden, bias=True)
        shapes |= linear_shapes(f"{block}.mlp.linear_fc2", hidden, width, bias=True)
    merged = width * config.spatial_merge_size**2
    shapes |= _merger_shapes(f"{tower}.merger", config, norm_width=width)
    for index in range(len(config.deepstack_visual_indexes)):
        merger = f"{tower}.deepstack_merger_list.{index}"
        shapes |= _merger_shapes(merger, config, norm_width=merged)
    return shapes


def _merger_shapes(name: str, config: VisionConfig, *, norm_width: int) -> parameters.Shapes:
    merged = config.hidden_size * config.spatial_merge_size**2
    return (
        layer_norm_shapes(f"{name}.norm", norm_width)
        | linear_shapes(f"{name}.linear_fc1", merged, merged, bias=True)
        | linear_shapes(f"{name}.linear_fc2", merged, config.out_hidden_size, bias=True)
    )


def _text_shapes(config: TextConfig) -> parameters.Shapes:
    width, head_dim = config.hidden_size, config.head_dim
    query_width = config.num_attention_heads * head_dim
    kv_width = config.num_key_value_heads * head_dim
    decoder = "model.language_model"
    shapes = {f"{decoder}.embed_tokens.weight": (config.vocab_size, width)}
    for index in range(config.num_hidden_layers):
        layer = f"{decoder}.layers.{index}"
        shapes |= {f"{layer}.input_layernorm.weight": (width,)}
        shapes |= {f"{layer}.post_attention_layernorm.weight": (width,)}
        shapes |= {f"{layer}.self_attn.{norm}.weight": (head_dim,) for norm in ("q_norm", "k_norm")}
        shapes |= linear_shapes(f"{layer}.self_attn.q_proj", width, query_width, bias=False)
        shapes |= linear_shapes(f"{layer}.self_attn.k_proj", width, kv_width, bias=False)
        shapes |= linear_shapes(f"{layer}.self_attn.v_proj", width, kv_width, bias=False)
        shapes |= linear_shapes(f"{layer}.self_attn.o_proj", query_width, width, bias=False)
        shapes |= swiglu_shapes(f"{layer}.mlp", width, config.intermediate_size, bias=False)
    return shapes | {f"{decoder}.norm.weight": (width,)}
