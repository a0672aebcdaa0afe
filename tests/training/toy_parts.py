"""A random tiny backbone and a small world, for tests of the recipes."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np

from resadapt_jax.allocator import AllocatorConfig
from resadapt_jax.data.toy_tokenizer import build_toy_tokenizer
from resadapt_jax.data.toy_world import ToyWorldConfig
from resadapt_jax.generation.backbone import Backbone
from resadapt_jax.generation.stopping import stop_tokens
from resadapt_jax.models.qwen2_5_vl.model import init_params
from resadapt_jax.training.engine import EngineAnswer
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


(STOP,) = stop_tokens(backbone().config)


class FakeEngine:
    """Says one word or another by the seed; keeps what it was given."""

    def __init__(self, gives_token_ids=True, gives_log_probs=True):
        self.gives_token_ids, self.gives_log_probs = gives_token_ids, gives_log_probs
        self.requests, self.answers, self.weights = [], [], []

    def generate(self, requests):
        for request in requests:
            self.requests.append(request)
            rng = np.random.default_rng(request.seed)
            self.answers += [self.answer(rng) for _ in range(request.num_answers)]
            yield self.answers[-request.num_answers :]

    def answer(self, rng):
        word = int(rng.integers(20, 30))
        if not self.gives_token_ids:
            return EngineAnswer(text=backbone().decode([word]))
        log_probs = [-1.0, -2.0] if self.gives_log_probs else None
        return EngineAnswer(token_ids=[word, STOP], log_probs=log_probs)

    def load_weights(self, weights):
        self.weights.append(dict(weights))
