"""A tiny model of each family, and a batch of prompts with several entries, none, and one."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from resadapt_jax.generation.prompts import Prompts, lay_out
from resadapt_jax.generation.visual import encode_pairs
from resadapt_jax.models import qwen2_5_vl, qwen3_vl
from resadapt_jax.models.families import family_of
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.models.qwen2_5_vl.config import Qwen2_5VLConfig
from resadapt_jax.models.qwen3_vl.config import Qwen3VLConfig
from resadapt_jax.typing import PyTree

VOCABULARY, NEW_TOKENS, CAPACITY = 24, 6, 10
IMAGE, VIDEO, START, END = 20, 21, 22, 23
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "eos_token_id": 19,
}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_heads": 2,
    "out_hidden_size": 24,
}
CONFIGS = {
    "qwen2_5_vl": Qwen2_5VLConfig(
        text=qwen2_5_vl.config.TextConfig(**TEXT, mrope_section=(1, 1, 1)),
        vision=qwen2_5_vl.config.VisionConfig(**VISION, fullatt_block_indexes=(0,)),
        **TOKENS,
    ),
    "qwen3_vl": Qwen3VLConfig(
        text=qwen3_vl.config.TextConfig(**TEXT, head_dim=8, mrope_section=(2, 1, 1)),
        vision=qwen3_vl.config.VisionConfig(
            **VISION, deepstack_visual_indexes=(0,), num_position_embeddings=9
        ),
        **TOKENS,
    ),
}
# Two pairs of a video, an image, a pair of another video; text alone; one pair, given third.
PROMPTS = [
    [3, 7, START, (VIDEO, 0), END, START, (VIDEO, 1), END, 5]
    + [START, (IMAGE, 2), END, START, (VIDEO, 3), END, 4],
    [5, 9, 1],
    [6, 2, 2, START, (VIDEO, 2), END, 10, 8],
]
GRIDS = np.array(
    [
        [[1, 4, 2], [1, 2, 4], [1, 2, 2], [1, 4, 4]],
        [[0, 0, 0]] * 4,
        [[0, 0, 0], [0, 0, 0], [1, 4, 4], [0, 0, 0]],
    ]
)


class Batch(NamedTuple):
    """Embedded prompts as generation takes them."""

    config: object
    params: PyTree
    layout: PromptLayout
    visual: jax.Array
    embeds: PyTree


def compact(prompts) -> Prompts:
    width = max(map(len, prompts))
    ids, index = np.zeros((2, len(prompts), width), np.int32)
    index -= 1
    for row, prompt in enumerate(prompts):
        for at, token in enumerate(prompt):
            ids[row, at], index[row, at] = token if isinstance(token, tuple) else (token, -1)
    lengths = np.array([len(prompt) for prompt in prompts])
    return Prompts(*map(jnp.asarray, (ids, lengths, index)))


@cache
def frames() -> jax.Array:
    """Eight frames a row; an image is the same frame twice."""
    coarse = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 6, 3)).astype(np.uint8)
    coarse[0, 5] = coarse[0, 4]
    return jnp.asarray(coarse.repeat(8, axis=2).repeat(8, axis=3))


@cache
def params_of(name: str) -> PyTree:
    """Random weights, larger than at the start of training so that positions and tokens matter."""
    config, rng = CONFIGS[name], np.random.default_rng(0)
    tensors = {}
    for key, shape in family_of(config).model.param_shapes(config).items():
        noise = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            tensors[key] = 0.3 * noise + ("norm" in key and key.endswith("weight"))
        else:
            tensors[key] = noise / np.prod(shape[1:]) ** 0.5
    tensors["lm_head.weight"] *= 2
    tree = traverse_util.unflatten_dict(tensors, sep=".")
    return jax.tree.map(jnp.asarray, tree)


@cache
def embedded(name: str) -> Batch:
    """The batch after its pixels have been encoded and placed."""
    config, params = CONFIGS[name], params_of(name)

    @jax.jit
    def embed(params, frames, grids, prompts):
        def encode(clip, grid_thw):
            return encode_pairs(
                params,
                config,
                clip,
                grid_thw,
                capacity=CAPACITY,
                max_height=4 * config.vision.patch_size,
                max_width=4 * config.vision.patch_size,
            )[0]

        visual = jax.vmap(encode)(frames, grids)
        layout = lay_out(prompts, grids, config, CAPACITY)
        return layout, visual, family_of(config).model.embed_prompt(params, config, layout, visual)

    return Batch(config, params, *embed(params, frames(), jnp.asarray(GRIDS), compact(PROMPTS)))
