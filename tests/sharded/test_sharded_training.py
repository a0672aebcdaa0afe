"""Rollouts and updates on meshes of eight devices: those of one device."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import optax
import pytest

from resadapt_jax.allocator import ThumbnailConfig
from resadapt_jax.data.toy_pipeline import question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.models.compute import Remat
from resadapt_jax.operators import SizeLimits
from resadapt_jax.training import step as training
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig, resolve
from resadapt_jax.training.encoder import encode_batch, open_encoder
from resadapt_jax.training.mesh import MeshConfig, build_mesh, put_batch
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.recipe import make_trainer, start
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.update import UpdateConfig
from tests.evaluation.evaluation_parts import WORLD, backbone
from tests.training.toy_parts import ALLOCATOR

ONE = (1, 1, 1)
MESHES = (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)
BATCH_SIZE, NUM_ALLOCATIONS, NUM_ANSWERS, UPDATES = 8, 2, 2, 5
# Adam makes steps of full size from gradients that are but rounding: a small rate keeps those out
# of the gradients that follow.
OPTIMIZERS = {"sgd": optax.sgd(0.1), "adam": optax.adam(1e-5)}


@cache
def config():
    joint = BackboneTrainingConfig(update=UpdateConfig(epochs=UPDATES), remat=Remat.NONE)
    unresolved = TrainConfig(
        data=WORLD,
        limits=SizeLimits(min_pixels=28 * 28),
        num_steps=1,
        batch_size=BATCH_SIZE,
        allocator=ALLOCATOR,
        update=UpdateConfig(epochs=UPDATES),
        rollouts=RolloutConfig(
            num_allocations=NUM_ALLOCATIONS,
            num_answers=NUM_ANSWERS,
            token_capacity=12,
            decoding=DecodingConfig(max_new_tokens=3, temperature=1.0),
        ),
        backbone_training=joint,
    )
    return resolve(unresolved, open_encoder(ThumbnailConfig(), backbone())[0])


@cache
def records():
    source = ToyClips(config().data, BATCH_SIZE)
    return next(question_batches(source, backbone().tokenizer, BATCH_SIZE))


class Setup:
    """A trainer on a mesh, and a batch of prompts there."""

    def __init__(self, shape, optimizer="sgd"):
        data, fsdp, tensor = shape
        self.mesh = build_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
        sized = replace(config(), mesh=MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
        encoder, _ = open_encoder(ThumbnailConfig(), backbone())
        local = PromptBatch.from_records(records())
        with jax.set_mesh(self.mesh):
            self.trainer = make_trainer(
                sized, self.mesh, backbone(), sized.data.native_sizes
            )._replace(
                allocator_optimizer=OPTIMIZERS[optimizer], backbone_optimizer=OPTIMIZERS[optimizer]
            )
            self.state, self.frozen = start(self.trainer, backbone().params)
            self.batch = put_batch(local, self.mesh)
            self.features = encode_batch(
                encoder, local, self.batch, self.trainer.setting.geometry, self.mesh
            )

    def roll_out(self):
        with jax.set_mesh(self.mesh):
            return training.roll_out(
                self.trainer, self.frozen, self.state, self.features, self.batch
            )

    def learn(self, drawn, passes, answers):
        """Five updates of both parts from rollouts on the host, with rewards of their own."""
        rng = np.random.default_rng(3)
        shape = BATCH_SIZE, NUM_ALLOCATIONS, NUM_ANSWERS
        accuracy = rng.integers(0, 2, shape).astype(np.float32)
        with jax.set_mesh(self.mesh):
            rolled = training.Rolled(
                put_batch(drawn, self.mesh), passes, put_batch(answers, self.mesh), texts=None
            )
            group, earned, _ = training.judge(
                {"accuracy": put_batch(accuracy, self.mesh)},
                rolled.drawn.scales,
                rolled.drawn.unit_mask,
                self.batch.valid,
                scale_range=self.trainer.config.scale_range,
                rewards=self.trainer.config.rewards,
                success_threshold=0.35,
                estimator=self.trainer.estimator,
            )
            state, moved, metrics = training.learn_allocator(
                self.trainer, self.state, self.features, rolled.drawn, group, earned
            )
            state, of_backbone = training.learn_backbone(
                self.trainer, self.frozen, state, self.batch, rolled, group, earned, moved
            )
        return state, metrics | of_backbone


@cache
def rolled_on_one_device():
    rolled, _ = Setup(ONE).roll_out()
    return jax.device_get(rolled.drawn), rolled.passes, jax.device_get(rolled.answers)


@cache
def learnt(shape, optimizer="sgd"):
    setup = Setup(shape, optimizer)
    before = jax.device_get((setup.state.allocator.params, setup.state.backbone.params))
    state, metrics = setup.learn(*rolled_on_one_device())
    return before, state, metrics


def assert_close(got, expected, start=None):
    """To 1e-5 of the way that an array has come from its start, or 1 % of the longest in its tree.

    By Euclidean norm. What an array came to is float32, and no more certain than a unit of the last
    place of every element.
    """
    start = jax.tree.map(np.zeros_like, expected) if start is None else start
    got, expected, start = (
        [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
        for tree in (got, expected, start)
    )
    ways = [np.linalg.norm(x - y) for x, y in zip(expected, start, strict=True)]
    assert max(ways) > 0
    for x, y, way in zip(got, expected, ways, strict=True):
        rounding = np.spacing(np.float32(np.abs(y).max())) * np.sqrt(y.size)
        assert np.linalg.norm(x - y) <= 1e-5 * max(way, 1e-2 * max(ways)) + rounding


@pytest.mark.parametrize("shape", MESHES)
def test_five_updates_on_a_mesh(shape):
    before, expected, of_one = learnt(ONE)
    _, got, metrics = learnt(shape)
    for index, part in enumerate(("allocator", "backbone")):
        ours, theirs = (getattr(state, part).params for state in (got, expected))
        assert_close(ours, theirs, before[index])
    for name in ("loss", "grad_norm", "backbone_loss", "backbone_grad_norm"):
        np.testing.assert_allclose(metrics[name], of_one[name], rtol=1e-5, atol=1e-7)


def test_adams_moments_on_a_mesh():
    _, expected, _ = learnt(ONE, "adam")
    _, got, _ = learnt((2, 2, 2), "adam")
    for part in ("allocator", "backbone"):
        ours, theirs = (getattr(state, part).opt_state[0] for state in (got, expected))
        assert_close(ours.mu, theirs.mu)
        assert_close(ours.nu, theirs.nu)


def test_a_rollout_on_a_mesh():
    drawn, passes, answers = rolled_on_one_device()
    got, _ = Setup((2, 2, 2)).roll_out()
    assert got.passes == passes
    np.testing.assert_array_equal(got.drawn.tokens, drawn.tokens)
    np.testing.assert_allclose(got.drawn.actions, drawn.actions, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got.answers.token_ids, answers.token_ids)
    np.testing.assert_allclose(got.answers.log_probs, answers.log_probs, atol=2e-5)


def test_parameters_and_moments_are_split():
    _, state, _ = learnt((2, 2, 2), "adam")
    for part in (state.allocator, state.backbone):
        for tree in (part.params, part.opt_state[0].mu, part.opt_state[0].nu):
            shares = [x.addressable_shards[0].data.size / x.size for x in jax.tree.leaves(tree)]
            assert min(shares) <= 0.5  # by fsdp or tensor
            whole = sum(x.size for x in jax.tree.leaves(tree))
            kept = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(tree))
            assert kept < 0.6 * whole
