"""A random tiny backbone and a small world, for tests of the recipes."""

from dataclasses import replace
from functools import cache

import jax

from resadapt_jax.allocator import AllocatorConfig
from resadapt_jax.data.toy_tokenizer import build_toy_tokenizer
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.models.qwen2_5_vl.model import init_params
from resadapt_jax.training.pretrain import toy_backbone_config

WORLD = ToyWorldConfig(seed=3, num_pairs=3, num_signs=2)
ALLOCATOR = AllocatorConfig(
    width=16, num_heads=2, head_dim=8, pool_width=16, head_width=16, num_space_time_layers=1
)


@cache
def backbone() -> Backbone:
    """The toy's, with a layer less: a block with windows, one without, and two of text."""
    tokenizer = build_toy_tokenizer()
    config = toy_backbone_config(tokenizer)
    config = replace(
        config,
        text=replace(config.text, num_hidden_layers=2),
        vision=replace(config.vision, depth=2, fullatt_block_indexes=(1,)),
    )
    return Backbone(config, init_params(jax.random.key(0), config), tokenizer)
