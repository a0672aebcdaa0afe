"""A run of ``train.py`` that a benchmark drives step by step."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from resadapt_jax.data.toy_pipeline import question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.data.toy_world import FRAMES_PER_SECOND
from resadapt_jax.training import step as training
from resadapt_jax.training.config import TrainConfig, resolve
from resadapt_jax.training.encoder import encode_batch, open_cache, open_encoder
from resadapt_jax.training.mesh import build_mesh, put_batch
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.recipe import make_trainer, open_backbone, start

Inputs = tuple[Any, PromptBatch]
"""Features of a batch, None without an allocator, and the batch itself; both on the mesh."""


class Run:
    """What ``train.py`` sets up for a config, and one step after another."""

    def __init__(self, config: TrainConfig):
        self.mesh = build_mesh(config.mesh)
        self.backbone = open_backbone(config, self.mesh)
        self.encoder, self.query_tokenizer = open_encoder(config.encoder, self.backbone)
        self.config = resolve(config, self.encoder)
        self.trainer = make_trainer(self.config, self.mesh, self.backbone, config.data.native_sizes)
        self.state, self.frozen = start(self.trainer, self.backbone.params)
        self.cache = open_cache(
            config.encoder, self.encoder, FRAMES_PER_SECOND, config.data.num_frames
        )

    def batches(self, count: int) -> Iterator[dict[str, np.ndarray]]:
        config = self.config
        source = ToyClips(config.data, count * config.batch_size)
        tokenizers = self.backbone.tokenizer, config.batch_size, config.convention
        return question_batches(source, *tokenizers, self.query_tokenizer)

    def encode(self, records: dict[str, np.ndarray]) -> Inputs:
        """The batch on the mesh and its features, as a step takes them."""
        local = PromptBatch.from_records(records)
        batch = put_batch(local, self.mesh)
        if self.config.allocator is None:
            return None, batch
        geometry = self.trainer.setting.geometry
        return encode_batch(self.encoder, local, batch, geometry, self.mesh, self.cache), batch

    def step(self, records: dict[str, np.ndarray], inputs: Inputs) -> dict:
        result = training.run_step(self.trainer, self.frozen, self.state, *inputs, records)
        self.state = jax.block_until_ready(result.state)
        return jax.device_get(result.metrics)
