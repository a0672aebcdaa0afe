"""A tiny world, a backbone with one layer of each kind and random weights, and a batch of clips."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np

from resadapt_jax.data.toy_pipeline import held_out_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.data.toy_tokenizer import build_toy_tokenizer
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.evaluation.clips import Clips, prompts_showing
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.generation.prompts import Prompts
from resadapt_jax.models.qwen2_5_vl.model import init_params
from resadapt_jax.operators import SizeLimits
from resadapt_jax.training.pretrain import toy_backbone_config

# 56 x 56 pixels and tokens of 28: a pair has 1 or 4 tokens, a clip of three pairs 3 to 12.
WORLD = ToyWorldConfig(seed=5, num_pairs=3, num_signs=2, size=56)
LIMITS = SizeLimits(min_pixels=28 * 28)


@cache
def backbone() -> Backbone:
    tokenizer = build_toy_tokenizer()
    config = toy_backbone_config(tokenizer)
    config = replace(
        config,
        text=replace(config.text, num_hidden_layers=1),
        vision=replace(config.vision, depth=1, fullatt_block_indexes=(0,)),
    )
    params = jax.jit(lambda key: init_params(key, config))(jax.random.key(0))
    return Backbone(config, params, tokenizer)


@cache
def clips(batch_size: int = 4) -> Clips:
    batches = held_out_batches(ToyClips(WORLD, batch_size), backbone().tokenizer, batch_size)
    return Clips.from_records(next(batches))


def build_prompts(clips: Clips, shown: np.ndarray) -> Prompts:
    return prompts_showing(clips, shown, backbone().tokenizer)


def tokens_of(grid_thw: np.ndarray) -> np.ndarray:
    """Merged tokens of each pair, written out: rows and columns count patches, two to a token."""
    return (grid_thw[..., 1] // 2) * (grid_thw[..., 2] // 2)
