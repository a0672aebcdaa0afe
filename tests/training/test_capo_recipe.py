"""The CAPO recipe on a tiny random backbone: what a step changes, and what it must not see."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.allocator import LogisticNormalBounds, ScaleRange, ThumbnailConfig
from resadapt_jax.data.toy_pipeline import question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.errors import UserError
from resadapt_jax.training.capo import (
    check_geometry,
    init_state,
    roll_out,
    update,
)
from resadapt_jax.training.config import TrainConfig, resolve
from resadapt_jax.training.encoder import open_encoder
from resadapt_jax.training.grading import TASK_TYPES, grade
from resadapt_jax.training.metrics import CompileCounter
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.rollout import RolloutConfig
from tests.training.toy_parts import ALLOCATOR, WORLD, backbone

ENCODER, _ = open_encoder(ThumbnailConfig(), backbone())
CONFIG = resolve(
    TrainConfig(
        world=WORLD,
        num_steps=4,
        batch_size=2,
        allocator=ALLOCATOR,
        rollouts=RolloutConfig(num_allocations=4, token_capacity=40),
    ),
    ENCODER,
)


def records(count=1):
    batches = question_batches(ToyClips(WORLD, 8), backbone().tokenizer, CONFIG.batch_size)
    return [next(batches) for _ in range(count)]


def roll(state, batch, config=CONFIG):
    """A rollout; configs that differ in what is learnt alone may share `CONFIG`'s compilation."""
    return roll_out(
        state,
        ENCODER,
        backbone().params,
        PromptBatch.from_records(batch),
        config=config,
        backbone_config=backbone().config,
    )


def learn(state, features, drawn, accuracy, config=CONFIG):
    return update(state, features, drawn, accuracy, config=config)


def test_nothing_compiles_after_the_first_step():
    first, second = records(2)
    state = init_state(CONFIG)
    features, drawn, _ = roll(state, first)
    state, _ = learn(state, features, drawn, np.zeros((2, 4, 1), np.float32))
    with CompileCounter() as compiled:
        features, drawn, _ = roll(state, second)
        learn(state, features, drawn, np.ones((2, 4, 1), np.float32))
    assert compiled.names == []


def test_at_equal_parameters_the_ratio_is_one():
    (batch,) = records()
    config = replace(CONFIG, updates_per_step=1)
    state = init_state(config)
    # Two programs must round alike, so they are compiled as users compile them.
    options = {"xla_backend_optimization_level": 3}
    inputs = state, ENCODER, backbone().params, PromptBatch.from_records(batch)
    static = {"config": CONFIG, "backbone_config": backbone().config}
    features, drawn, _ = roll_out.lower(*inputs, **static).compile(options)(*inputs)
    accuracy = np.arange(8, dtype=np.float32).reshape(2, 4, 1) % 2
    inputs = state, features, drawn, accuracy
    _, metrics = update.lower(*inputs, config=config).compile(options)(*inputs)
    assert metrics["ratio"] == 1.0
    assert metrics["grad_norm"] > 0.0


def test_a_step_takes_either_distribution():
    (batch,) = records()
    config = replace(CONFIG, allocator=replace(ALLOCATOR, bounds=LogisticNormalBounds()))
    config = resolve(config, ENCODER)

    def step(accuracy):
        state = init_state(config)
        features, drawn, shown = roll(state, batch, config)
        _, learnt = learn(state, features, drawn, accuracy, config)
        return shown | learnt

    metrics = jax.eval_shape(step, np.ones((2, 4, 1), np.float32))
    assert metrics["entropy"].shape == metrics["concentration"].shape == ()


def test_cheaper_right_answers_are_made_likelier():
    (batch,) = records()
    # All answers right: cost alone separates the allocations, so the mean scale must fall.
    config = replace(
        CONFIG,
        optimizer=replace(CONFIG.optimizer, learning_rate=3e-3, warmup_steps=1),
        advantage=replace(CONFIG.advantage, gamma=1.5, positive_floor=None),
        num_steps=40,
    )
    state = init_state(config)
    before = None
    for _ in range(12):
        features, drawn, metrics = roll(state, batch)
        before = metrics["retention_of_mean_policy"] if before is None else before
        state, _ = learn(state, features, drawn, np.ones((2, 4, 1), np.float32), config)
    _, _, metrics = roll(state, batch)
    assert metrics["retention_of_mean_policy"] < before - 0.05


def test_equal_rewards_and_no_cost_change_nothing():
    (batch,) = records()
    loss = replace(CONFIG.loss, similarity_weight=0.0, concentration_weight=0.0)
    config = replace(
        CONFIG,
        advantage=replace(CONFIG.advantage, gamma=0.0, lambda_capo=0.0, positive_floor=None),
        loss=loss,
    )
    state = init_state(config)
    features, drawn, _ = roll(state, batch)
    _, metrics = learn(state, features, drawn, np.ones((2, 4, 1), np.float32), config)
    assert metrics["grad_norm"] == 0.0


def test_the_policys_range_reaches_every_part():
    (batch,) = records()
    config = replace(CONFIG, scale_range=ScaleRange(s_min=0.25, s_max=0.5))
    config = resolve(config, ENCODER)
    state = init_state(config)
    features, drawn, _ = roll(state, batch, config)
    assert drawn.scales.min() >= 0.25 and drawn.scales.max() <= 0.5
    _, metrics = learn(state, features, drawn, np.ones((2, 4, 1), np.float32), config)
    expected = (np.mean(drawn.scales, axis=-1) - 0.25) / 0.25  # eq. (13)
    np.testing.assert_allclose(metrics["cost"], expected.mean(), rtol=1e-5)


def test_evidence_reaches_neither_allocator_nor_reward_nor_loss(monkeypatch):
    # Poison the evidence of every clip: not a bit of a step may change.
    def one_step():
        batch = records()[0]
        state = init_state(CONFIG)
        features, drawn, _ = roll(state, batch)
        ids, mask = jax.device_get((drawn.answers.token_ids, drawn.answers.mask))
        accuracy = grade(ids, mask, batch["task"], batch["answer"], backbone().decode)
        state, metrics = learn(state, features, drawn, accuracy)
        return state.params, metrics

    clean = one_step()
    from resadapt_jax.data import toy_source

    poisoned = lambda question, config: np.full(config.num_pairs, np.nan)  # noqa: E731
    monkeypatch.setattr(toy_source, "_evidence_mask", poisoned)
    assert np.isnan(ToyClips(WORLD, 1)[0]["evidence"]).all()
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(one_step()), strict=True):
        assert jnp.array_equal(a, b)


def test_answers_are_graded_by_their_task():
    texts = {1: "C", 2: "7", 3: "4 to 5", 4: "4 to 6"}
    ids = np.array([[[1], [2]], [[2], [1]], [[3], [4]]])[:, :, None, :]
    mask = np.ones(ids.shape, bool)
    tasks = np.array(["which", "how_many", "when"])
    truths = np.array(["C", "7", "4 to 5"])
    scores = grade(ids, mask, tasks, truths, lambda row: texts[int(row[0])])
    # [4, 6] against [4, 5]: intersection 1 second, union 2.
    np.testing.assert_allclose(scores[:, :, 0], [[1, 0], [1, 0], [1, 0.5]])


def test_only_one_class_per_task():
    from resadapt_jax.data.toy_world import TASKS

    assert set(TASK_TYPES) == set(TASKS)


@pytest.mark.parametrize("field", ["num_steps", "batch_size", "updates_per_step"])
def test_a_run_of_nothing_is_refused(field):
    with pytest.raises(ValueError, match=field):
        replace(CONFIG, **{field: 0})


def test_what_the_backbone_cannot_take_is_refused():
    check_geometry(CONFIG, backbone().config)
    few = replace(CONFIG, rollouts=replace(CONFIG.rollouts, token_capacity=2))
    with pytest.raises(UserError, match="token_capacity is 2, but 3 pairs .* need 3"):
        check_geometry(few, backbone().config)
    other = replace(CONFIG, limits=replace(CONFIG.limits, patch_size=16))
    with pytest.raises(UserError, match="patches of 16 pixels .* the backbone has 14 and 2"):
        check_geometry(other, backbone().config)
