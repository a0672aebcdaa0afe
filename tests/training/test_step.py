"""Steps on a tiny random backbone: what a step changes, and what it must not see."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax import advantages, losses
from resadapt_jax.allocator import ScaleRange, ThumbnailConfig
from resadapt_jax.allocator.checkpoint import (
    TrainedAllocator,
    TrainedAllocatorConfig,
    save_allocator,
)
from resadapt_jax.allocator.network import allocate, propose_scales
from resadapt_jax.allocator.policy import to_scale
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.errors import UserError
from resadapt_jax.losses import BackboneLossConfig
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training import allocator_step
from resadapt_jax.training import step as training
from resadapt_jax.training.grading import grade
from resadapt_jax.training.loop.metric_log import CompileCounter
from resadapt_jax.training.update import UpdateConfig
from tests.training.step_parts import CONFIG, ENCODER, JOINT, Run, records, right
from tests.training.toy_parts import WORLD, FakeEngine, backbone

OF_BOTH = (
    *("clipped_high", "clipped_low", "dual_clipped", "approximate_kl", "grad_norm"),
    *("ratio", "ratio_min", "ratio_max"),
)
LOGGED = (
    *OF_BOTH,
    *(f"backbone_{name}" for name in OF_BOTH),
    *("ratio_min_after", "ratio_max_after", "backbone_kl", "padding_share"),
    *("retention", "layer_retention", "cache_retention", "retention_of_mean_policy"),
    *("visual_tokens", "answer_tokens", "flops", "devices", "reward_seconds"),
)


def test_nothing_compiles_after_the_first_step():
    loss = BackboneLossConfig(kl_weight=0.04)
    run = Run(replace(JOINT, backbone_training=replace(JOINT.backbone_training, loss=loss)))
    first = run.step(records(0)).metrics
    with CompileCounter() as compiled:
        result = run.step(records(1))
    assert compiled.names == []
    assert int(result.state.step) == 2
    assert run.trainer.finite == ("loss", "grad_norm", "backbone_loss", "backbone_grad_norm")
    for name in (*LOGGED, *run.trainer.finite):
        assert np.isfinite(result.metrics[name]), name
    assert result.metrics["backbone_grad_norm"] > 0.0
    assert first["backbone_kl"] < 1e-7 < result.metrics["backbone_kl"]
    # All that enters the decoder passes each of its layers, and stays.
    np.testing.assert_allclose(first["layer_retention"], first["retention"], rtol=1e-6)
    assert first["cache_retention"] == 1.0
    for part in ("", "backbone_"):
        low, mean, high = (result.metrics[f"{part}ratio{end}"] for end in ("_min", "", "_max"))
        assert low - 1e-6 <= mean <= high + 1e-6


def test_what_is_logged_of_draws_and_updates():
    run = Run(
        replace(
            CONFIG,
            rollouts=replace(CONFIG.rollouts, token_capacity=5),
            optimizer=replace(CONFIG.optimizer, warmup_steps=0),
        )
    )
    rolled, metrics = run.roll_out(records())
    features, _ = run.inputs(records())
    drawn, scales = rolled.drawn, np.asarray(rolled.drawn.scales)  # all units are there
    policy = allocate(run.state.allocator.params, CONFIG.allocator, features).policy
    means = np.asarray(to_scale(policy.mean(), CONFIG.scale_range))
    # a pair of 56 x 56 pixels has four tokens from scale .75 on, else one; three pairs have 12
    of_means = np.where(means >= 0.75, 4, 1).sum(axis=1)
    differences = np.abs(scales[..., :, None] - scales[..., None, :]).sum(axis=(-1, -2))
    expected = {
        "scale_mean": scales.mean(),
        "scale_std": scales.std(axis=-1).mean(),
        "scale_span": np.ptp(scales, axis=-1).mean(),
        "scale_gini": (differences / (2 * 3**2 * scales.mean(axis=-1))).mean(),
        "fitted_share": drawn.fitted.mean(),
        "retention": drawn.tokens.mean() / 12,
        "visual_tokens": drawn.tokens.sum(),
        "padding_share": 1 - drawn.tokens.mean() / np.mean([p.capacity for p in rolled.passes]),
        "retention_of_mean_policy": of_means.mean() / 12,
        "scale_std_of_mean_policy": means.std(axis=-1).mean(),
        "entropy": policy.entropy().mean(),
        "concentration_max": policy.concentration().max(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert 0 < metrics["fitted_share"] < 1

    accuracy = np.arange(8, dtype=np.float32).reshape(2, 4, 1) % 2
    _, earned, judged = run.judge(rolled, accuracy)
    assert judged["advantage_max"] == np.abs(earned.per_unit).max()
    learnt = run.learn(records(), rolled, accuracy)
    policy = allocate(run.state.allocator.params, CONFIG.allocator, features).policy
    ratio = np.exp(policy.log_prob(drawn.actions) - drawn.log_probs)
    assert ratio.min() < 1 - 1e-5 and ratio.max() > 1 + 1e-5
    np.testing.assert_allclose(learnt["ratio_min_after"], ratio.min(), rtol=1e-4)
    np.testing.assert_allclose(learnt["ratio_max_after"], ratio.max(), rtol=1e-4)


def test_at_equal_parameters_the_ratio_is_one():
    run = Run(CONFIG)
    rolled, _ = run.roll_out(records())
    metrics = run.learn(records(), rolled, np.arange(8, dtype=np.float32).reshape(2, 4, 1) % 2)
    # Two programs may round apart by some units of the last place, where XLA does not optimise.
    np.testing.assert_allclose(metrics["ratio"], 1.0, atol=1e-5)
    assert metrics["grad_norm"] > 0.0


def test_cheaper_right_answers_are_made_likelier():
    # All answers right: cost alone separates the allocations, so the mean scale must fall.
    config = replace(
        CONFIG,
        optimizer=replace(CONFIG.optimizer, learning_rate=3e-3, warmup_steps=1),
        advantage=replace(CONFIG.advantage, gamma=1.5, positive_floor=None),
        update=UpdateConfig(epochs=2),
        num_steps=40,
    )
    run = Run(config)

    def mean_scale():
        params, features = run.state.allocator.params, run.inputs(records())[0]
        return jnp.mean(propose_scales(params, config.allocator, features, config.scale_range))

    before = mean_scale()
    for _ in range(12):
        rolled, _ = run.roll_out(records())
        run.learn(records(), rolled, right())
    assert mean_scale() < before - 0.05


def test_the_loss_is_told_which_units_are_neighbours(monkeypatch):
    given = []

    def spy(*arguments, **named):
        given.append(named["unit_segments"])
        return losses.allocator_loss(*arguments, **named)

    watched = SimpleNamespace(**vars(losses) | {"allocator_loss": spy})
    monkeypatch.setattr(allocator_step, "losses", watched)
    # a coefficient that no other test has, so that it is traced here
    run = Run(replace(CONFIG, loss=replace(CONFIG.loss, similarity_weight=0.0123)))
    rolled, _ = run.roll_out(records())
    run.learn(records(), rolled, right())
    assert given and all(segments.shape == (2, 3) for segments in given)


def test_equal_rewards_and_no_cost_change_nothing():
    loss = replace(CONFIG.loss, similarity_weight=0.0, concentration_weight=0.0)
    advantage = replace(CONFIG.advantage, gamma=0.0, lambda_capo=0.0, positive_floor=None)
    run = Run(replace(CONFIG, advantage=advantage, loss=loss))
    rolled, _ = run.roll_out(records())
    metrics = run.learn(records(), rolled, right())
    assert metrics["grad_norm"] == 0.0


def test_the_policys_range_reaches_every_part():
    run = Run(replace(CONFIG, scale_range=ScaleRange(s_min=0.25, s_max=0.5)))
    rolled, _ = run.roll_out(records())
    scales = rolled.drawn.scales
    assert scales.min() >= 0.25 and scales.max() <= 0.5
    _, _, metrics = run.judge(rolled, right())
    expected = (np.mean(scales, axis=-1) - 0.25) / 0.25  # eq. (13)
    np.testing.assert_allclose(metrics["cost"], expected.mean(), rtol=1e-5)


def test_a_users_own_method_is_one_function():
    def against_cost(group):
        return advantages.make_advantages(group, -group.cost[..., None])

    run = Run(CONFIG, estimator=against_cost)
    rolled, _ = run.roll_out(records())
    _, earned, metrics = run.judge(rolled, right())
    np.testing.assert_allclose(jnp.mean(earned.values), -metrics["cost"], rtol=1e-6)


@pytest.mark.parametrize("gives", [{}, {"gives_log_probs": False}, {"gives_token_ids": False}])
def test_an_allocator_learns_from_the_answers_of_an_engine(gives):
    engine = FakeEngine(**gives)
    run = Run(CONFIG, engine=engine)
    result = run.step(records())
    assert len(engine.requests) == 2 * 4 and not engine.weights
    said = [text for sample in result.samples() for texts in sample.answers for text in texts]
    assert said == [answer.text or backbone().decode(answer.token_ids) for answer in engine.answers]
    assert result.metrics["grad_norm"] > 0.0


def test_an_engines_texts_are_what_is_graded():
    """Right by its text, whatever its tokens read; a text is as long as the tokenizer says."""
    truths = [str(truth) for truth in records()["answer"]]

    class Right(FakeEngine):
        def answer(self, rng):
            truth = truths[(len(self.requests) - 1) // 4]
            return replace(super().answer(rng), text=truth)

    for gives_token_ids in (True, False):
        run = Run(CONFIG, engine=Right(gives_token_ids=gives_token_ids))
        rolled, metrics = run.roll_out(records())
        assert rolled.texts.tolist() == [[[truth]] * 4 for truth in truths]
        kinds, mask = records()["problem_type"], np.ones((2, 4, 1, 3))
        parts = grade(rolled.texts, mask, kinds, truths, run.rewards).parts
        np.testing.assert_array_equal(parts["accuracy"], 1.0)
        if not gives_token_ids:
            lengths = [len(backbone().tokenizer.encode(truth)) + 1 for truth in truths]
            assert metrics["answer_tokens"] == 4 * sum(min(length, 3) for length in lengths)


def test_evidence_reaches_neither_allocator_nor_reward_nor_loss(monkeypatch):
    # Poison the evidence of every clip: not a bit of a step may change.
    def one_step():
        records.cache_clear()
        run = Run(CONFIG)
        result = run.step(records())
        return result.state.allocator.params, result.metrics["reward"]

    clean = one_step()
    from resadapt_jax.data import toy_source

    poisoned = lambda question, config: np.full(config.num_pairs, np.nan)  # noqa: E731
    monkeypatch.setattr(toy_source, "_evidence_mask", poisoned)
    assert np.isnan(ToyClips(WORLD, 1)[0]["evidence"]).all()
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(one_step()), strict=True):
        assert jnp.array_equal(a, b)


def test_a_trained_allocator_draws_and_stays(tmp_path):
    first = Run(CONFIG)
    saved = TrainedAllocator(
        config=TrainedAllocatorConfig(
            network=CONFIG.allocator,
            encoder=ThumbnailConfig(),
            vocab_size=ENCODER.vocab_size,
            scale_range=CONFIG.scale_range,
        ),
        params=first.state.allocator.params,
        encoder=ENCODER,
        tokenizer=backbone().tokenizer,
    )
    save_allocator(tmp_path, saved)
    config = replace(JOINT, train_allocator=False, start_allocator=str(tmp_path))
    run = Run(config)
    result = run.step(records())
    assert result.state.allocator is None
    for a, b in zip(*map(jax.tree.leaves, (run.frozen.allocator, saved.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(run.trainer.finite) <= result.metrics.keys()
    with pytest.raises(UserError, match="scale_range is not that of"):
        Run(replace(config, scale_range=ScaleRange(s_min=0.3, s_max=1.0)))
    with pytest.raises(UserError, match="encoder.saturation_temperature is 0.2, .* with 0.1"):
        Run(replace(config, encoder=ThumbnailConfig(saturation_temperature=0.2)))


def test_format_and_length_are_rewarded_where_they_are_asked_for():
    texts = np.array([[["<think>a</think><answer>C</answer>"], ["<think>C"], ["C"]]], object)
    # Answers of one, three and four tokens; the buffer is the last two of four.
    mask = np.arange(4) < np.array([1, 3, 4]).reshape(1, 3, 1, 1)
    config = RewardConfig(format_weight=0.2, overlong_buffer=2)
    which = np.array(["multiple choice"]), np.array(["C"])
    parts = grade(texts, mask, *which, config).parts
    np.testing.assert_array_equal(parts["accuracy"].ravel(), [1, 1, 1])
    np.testing.assert_array_equal(parts["format"].ravel(), [1, -1, 0])
    np.testing.assert_array_equal(parts["overlong"].ravel(), [0, -0.5, -1])
    run = Run(replace(CONFIG, rewards=config))
    rolled, _ = run.roll_out(records())
    named = {name: np.tile(part, (2, 1, 1)) for name, part in parts.items()}
    drawn = rolled.drawn.some(0, 3)
    group, _, metrics = training.judge(
        named,
        drawn.scales,
        drawn.unit_mask,
        jnp.ones(len(drawn.scales), bool),
        scale_range=ScaleRange(s_min=0.2, s_max=1.0),
        rewards=config,
        success_threshold=0.35,
        estimator=run.trainer.estimator,
    )
    # accuracy + 0.2 format + overlong
    np.testing.assert_allclose(group.rewards[0, :, 0], [1.2, 0.3, 0.0], atol=1e-6)
    assert metrics["reward_overlong"] == -0.5
