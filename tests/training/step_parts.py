"""A run on a tiny random backbone, stepped by hand."""

from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np

from resadapt_jax.allocator import ThumbnailConfig
from resadapt_jax.data.toy_pipeline import question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.training import step as training
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig, resolve
from resadapt_jax.training.encoder import encode_batch, open_encoder
from resadapt_jax.training.mesh import MeshConfig, build_mesh, put_batch
from resadapt_jax.training.optimizer import OptimizerConfig
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.recipe import make_trainer, start
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.update import UpdateConfig
from tests.training.toy_parts import ALLOCATOR, WORLD, backbone

ONE_DEVICE = MeshConfig(data=1)
ENCODER, _ = open_encoder(ThumbnailConfig(), backbone())
CONFIG = resolve(
    TrainConfig(
        mesh=ONE_DEVICE,
        data=replace(WORLD, size=56),
        num_steps=4,
        batch_size=2,
        allocator=ALLOCATOR,
        update=UpdateConfig(epochs=1),
        rollouts=RolloutConfig(
            num_allocations=4, token_capacity=9, decoding=DecodingConfig(max_new_tokens=3)
        ),
    ),
    ENCODER,
)
JOINT = replace(
    CONFIG,
    rollouts=replace(CONFIG.rollouts, decoding=DecodingConfig(max_new_tokens=3, temperature=1.0)),
    backbone_training=BackboneTrainingConfig(
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0)
    ),
)


@cache
def records(index=0):
    source = ToyClips(CONFIG.data, 8)
    batches = question_batches(source, backbone().tokenizer, CONFIG.batch_size)
    return [next(batches) for _ in range(index + 1)][-1]


class Run:
    """A trainer with its state, stepped on batches of the embedded world."""

    def __init__(self, config, estimator=None, engine=None):
        self.mesh = build_mesh(config.mesh)
        self.trainer = make_trainer(
            config, self.mesh, backbone(), config.data.native_sizes, estimator, engine
        )
        self.rewards = config.rewards
        self.state, self.frozen = start(self.trainer, backbone().params)

    def inputs(self, records):
        local = PromptBatch.from_records(records)
        batch = put_batch(local, self.mesh)
        geometry = self.trainer.setting.geometry
        return encode_batch(ENCODER, local, batch, geometry, self.mesh), batch

    def roll_out(self, records):
        rolled, metrics = training.roll_out(
            self.trainer, self.frozen, self.state, *self.inputs(records)
        )
        return rolled, metrics

    def learn(self, records, rolled, accuracy):
        """The allocator's part of a step, with rewards of one's own."""
        features, _ = self.inputs(records)
        group, earned, metrics = self.judge(rolled, accuracy)
        self.state, _, learnt = training.learn_allocator(
            self.trainer, self.state, features, rolled.drawn, group, earned
        )
        return metrics | learnt

    def judge(self, rolled, accuracy):
        config = self.trainer.config
        return training.judge(
            {"accuracy": accuracy},
            rolled.drawn.scales,
            rolled.drawn.unit_mask,
            jnp.ones(len(rolled.drawn.scales), bool),
            scale_range=config.scale_range,
            rewards=config.rewards,
            success_threshold=config.success_threshold,
            estimator=self.trainer.estimator,
        )

    def step(self, records):
        result = training.run_step(
            self.trainer, self.frozen, self.state, *self.inputs(records), records
        )
        self.state = result.state
        return result


def right(count=4):
    return np.ones((CONFIG.batch_size, count, 1), np.float32)
