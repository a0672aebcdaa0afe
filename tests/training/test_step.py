"""Steps on a tiny random backbone: what a step changes, and what it must not see."""

from dataclasses import replace
from functools import cache
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
from resadapt_jax.allocator.network import propose_scales
from resadapt_jax.data.toy_pipeline import question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.errors import UserError
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.losses import BackboneLossConfig
from resadapt_jax.losses.aggregate import Extremes
from resadapt_jax.models.stacking import stack_layers, unstack_layers
from resadapt_jax.rewards import RewardConfig
from resadapt_jax.training import allocator_step, backbone_step, recipe
from resadapt_jax.training import step as training
from resadapt_jax.training.backbone_step import Graded
from resadapt_jax.training.checks import (
    check_batches,
    check_geometry,
    check_memory,
    memory_of,
)
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig, resolve
from resadapt_jax.training.encoder import encode_batch, open_encoder
from resadapt_jax.training.grading import grade
from resadapt_jax.training.loop.metric_log import CompileCounter
from resadapt_jax.training.mesh import MeshConfig, build_mesh, put_batch, require_own_prompts
from resadapt_jax.training.optimizer import OptimizerConfig
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.recipe import make_trainer, open_backbone, start
from resadapt_jax.training.rollout import Pass
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.state import merge_params, split_params, stack_trained
from resadapt_jax.training.update import UpdateConfig
from tests.training.toy_parts import ALLOCATOR, WORLD, FakeEngine, backbone

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
FILTERED = replace(CONFIG.rollouts, decoding=DecodingConfig(temperature=1.0, top_p=0.9))


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


def test_a_backbone_in_training_has_float32_parameters():
    """Whatever it computes in: an update of 1e-6 would vanish in bfloat16."""
    for config, held in ((JOINT, "float32"), (CONFIG, "bfloat16")):
        config = replace(config, backbone_dtype="bfloat16")
        read = open_backbone(config, build_mesh(ONE_DEVICE))
        assert {x.dtype for x in jax.tree.leaves(read.params)} == {jnp.dtype(held)}
        state = Run(config).state
        assert config is CONFIG or {x.dtype for x in jax.tree.leaves(state)[:-1]} <= {
            jnp.dtype("float32"),
            jnp.dtype("int32"),
        }


def test_the_reference_computes_as_the_backbone_does():
    joint = replace(JOINT.backbone_training, loss=BackboneLossConfig(kl_weight=0.04))
    frozen = Run(replace(JOINT, backbone_training=joint, backbone_dtype="bfloat16")).frozen
    assert {x.dtype for x in jax.tree.leaves(frozen.reference)} == {jnp.dtype("bfloat16")}
    stacked = jax.tree.structure(stack_layers(backbone().params))
    assert jax.tree.structure(frozen.reference) == stacked


def test_answers_of_every_capacity_are_learnt_from_by_the_same_program():
    """What jit keys on besides shapes must not tell of the pass that came first."""
    run = Run(JOINT)
    rolled, _ = run.roll_out(records())
    _, batch = run.inputs(records())
    setting, params = run.trainer.setting, backbone().params
    trees = {
        jax.tree.structure(
            backbone_step.answer_all(
                params, batch, rolled.drawn, [Pass(0, capacity)], jax.random.key(0), setting
            )
        )
        for capacity in (6, 9)
    }
    assert len(trees) == 1


def test_answers_to_one_allocation_share_its_prefill(monkeypatch):
    """The answers are those of prompts run one by one, for less arithmetic."""
    sampled = DecodingConfig(max_new_tokens=3, temperature=1.0)
    run = Run(replace(CONFIG, rollouts=replace(CONFIG.rollouts, num_answers=4, decoding=sampled)))
    rolled, _ = run.roll_out(records())
    _, batch = run.inputs(records())

    setting, params = run.trainer.setting, backbone().params
    encoded = backbone_step.encode(params, batch, setting=setting)

    def answer():
        def program(params, encoded):
            given = batch, rolled.drawn, jnp.int32(0), jax.random.key(1)
            answer = backbone_step.answer.__wrapped__  # traced anew
            return answer(params, encoded, *given, setting=setting, capacity=9)

        compiled = jax.jit(program).lower(params, encoded).compile()
        return compiled(params, encoded), compiled.cost_analysis()["flops"]

    together, fewer = answer()
    monkeypatch.setattr(RolloutConfig, "shared_prefix", lambda self, length: 0)
    apart, more = answer()
    assert fewer < 0.6 * more
    np.testing.assert_array_equal(together.token_ids, apart.token_ids)
    np.testing.assert_allclose(together.log_probs, apart.log_probs, atol=1e-5)
    assert len(set(map(tuple, together.token_ids.reshape(-1, 3).tolist()))) > 8  # drawn apart


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

    monkeypatch.setattr(
        allocator_step, "losses", SimpleNamespace(**vars(losses) | {"allocator_loss": spy})
    )
    # a coefficient that no other test has, so that it is traced here
    run = Run(replace(CONFIG, loss=replace(CONFIG.loss, similarity_weight=0.0123)))
    rolled, _ = run.roll_out(records())
    run.learn(records(), rolled, right())
    assert given and all(segments.shape == (2, 3) for segments in given)


def test_both_optimizers_know_how_many_updates_come(monkeypatch):
    updates = []

    def make_optimizer(config, num_updates):
        updates.append(num_updates)
        return recipe_optimizer(config, num_updates)

    recipe_optimizer = recipe.make_optimizer
    monkeypatch.setattr(recipe, "make_optimizer", make_optimizer)
    joint = replace(JOINT.backbone_training, update=UpdateConfig(epochs=2, mini_batches=2))
    Run(replace(JOINT, update=UpdateConfig(epochs=3), backbone_training=joint))
    assert updates == [4 * 3, 4 * 2 * 2]


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


def graded_answers(monkeypatch, moved=None, **joint):
    """A run's rollouts, what they earned, and what the backbone would learn of them.

    The answers of the first prompt are alike, those of the second differ.
    """
    given = []

    def learn_from(part, fixed, batch, drawn, graded, passes, **static):
        given.append(graded)
        return part, {"log_ratio": Extremes(jnp.zeros(()), jnp.zeros(()))}, jnp.zeros(())

    monkeypatch.setattr(training.backbone_step, "learn_from", learn_from)
    run = Run(replace(JOINT, backbone_training=replace(JOINT.backbone_training, **joint)))
    rolled, _ = run.roll_out(records())
    accuracy = np.array([[1, 1, 1, 1], [1, 0, 0, 1]], np.float32)[:, :, None]
    group, earned, _ = run.judge(rolled, accuracy)
    _, metrics = training.learn_backbone(
        *(run.trainer, run.frozen, run.state, run.inputs(records())[1]),
        *(rolled, group, earned, moved),
    )
    return rolled, group, earned, given[0], metrics


def test_answers_that_are_alike_may_be_left_out(monkeypatch):
    rolled, _, _, graded, metrics = graded_answers(monkeypatch, informative_prompts_only=True)
    assert metrics["backbone_counted_share"] == 0.5
    assert not graded.mask[0].any()
    np.testing.assert_array_equal(graded.mask[1], rolled.answers.mask[1])


def test_the_backbone_learns_from_what_it_is_told_to(monkeypatch):
    moved = jnp.array([[1.0, 2.0, 0.5, 1.0], [0.5, 1.0, 2.0, 3.0]])
    _, group, earned, graded, _ = graded_answers(monkeypatch, moved)
    np.testing.assert_array_equal(graded.advantages, earned.per_answer)
    *_, graded, _ = graded_answers(monkeypatch, moved, ispred=True)
    np.testing.assert_allclose(graded.advantages, earned.per_answer * moved[:, :, None], rtol=1e-6)
    *_, graded, _ = graded_answers(monkeypatch, moved, advantages="released")
    plain = advantages.grpo(group, JOINT.backbone_training.grpo).per_answer
    np.testing.assert_allclose(graded.advantages, plain, rtol=1e-6)
    assert np.abs(plain - earned.per_answer).max() > 0.1


def test_of_more_prompts_than_fit_those_that_differ_are_learnt_from(monkeypatch):
    """Of each two prompts the first whose answers differ: here the second."""
    given = {}

    def learn_from(part, fixed, batch, drawn, graded, passes, **static):
        given.update(batch=batch, drawn=drawn, graded=graded)
        return part, {"log_ratio": Extremes(jnp.zeros(()), jnp.zeros(()))}, jnp.zeros(())

    def score_all(params, batch, drawn, answers, passes, setting):
        given.update(scored=(batch, drawn, answers))
        return 2 * answers.log_probs

    monkeypatch.setattr(training.backbone_step, "learn_from", learn_from)
    monkeypatch.setattr(training.backbone_step, "score_all", score_all)
    joint = replace(
        JOINT.backbone_training,
        informative_prompts_only=True,
        oversampling=2,
        old_log_probs="recomputed",
    )
    run = Run(replace(JOINT, backbone_training=joint))
    rolled, _ = run.roll_out(records())
    accuracy = np.array([[1, 1, 1, 1], [1, 0, 0, 1]], np.float32)[:, :, None]
    group, earned, _ = run.judge(rolled, accuracy)
    _, metrics = training.learn_backbone(
        *(run.trainer, run.frozen, run.state, run.inputs(records())[1]),
        *(rolled, group, earned, None),
    )
    assert metrics["backbone_informative_share"] == 0.5
    assert metrics["backbone_counted_share"] == 1.0
    second = {
        "batch": PromptBatch.from_records(records()),
        "drawn": rolled.drawn,
        "graded": Graded(
            answers=rolled.answers,
            old_log_probs=2 * rolled.answers.log_probs,
            advantages=earned.per_answer,
            mask=rolled.answers.mask,
            ref_log_probs=None,
        ),
        "scored": (PromptBatch.from_records(records()), rolled.drawn, rolled.answers),
    }
    for kept, both in zip(*map(jax.tree.leaves, (given, second)), strict=True):
        np.testing.assert_array_equal(kept, both[1:])


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


def test_a_frozen_part_stays_bitwise_and_the_rest_moves():
    joint = replace(JOINT.backbone_training, frozen=("visual.*",))
    run = Run(replace(JOINT, backbone_training=joint))
    assert "visual" not in run.state.backbone.params
    before = jax.device_get(run.state.backbone.params)
    run.step(records())
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, run.state.backbone.params)
    assert all(jax.tree.leaves(moved))
    assert run.frozen.backbone.keys() == {"visual"}


@pytest.mark.parametrize(
    ("frozen", "message"),
    [(("vision.*",), "no parameter is called vision"), (("*",), "nothing is left to train")],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(frozen, message):
    joint = replace(JOINT.backbone_training, frozen=frozen)
    with pytest.raises(UserError, match=message):
        Run(replace(JOINT, backbone_training=joint))


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


def test_a_backbone_alone_sees_frames_at_their_own_size():
    config = replace(
        JOINT,
        allocator=None,
        train_allocator=False,
        rollouts=replace(JOINT.rollouts, num_allocations=1, num_answers=4, token_capacity=12),
        backbone_training=replace(JOINT.backbone_training, advantages="released"),
    )
    run = Run(config)
    local = PromptBatch.from_records(records())
    result = training.run_step(
        run.trainer, run.frozen, run.state, None, put_batch(local, run.mesh), records()
    )
    assert result.metrics["retention"] == 1.0
    assert result.state.allocator is None and int(result.state.step) == 1
    assert run.trainer.finite == ("backbone_loss", "backbone_grad_norm")
    assert set(run.trainer.finite) <= result.metrics.keys()


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


def test_what_the_backbone_cannot_take_is_refused():
    def check(config):
        trainer = make_trainer(config, build_mesh(ONE_DEVICE), backbone(), config.data.native_sizes)
        check_geometry(trainer, config.data.num_pairs)

    check(CONFIG)
    with pytest.raises(UserError, match="token_capacity is 2, but 3 pairs .* need 3"):
        check(replace(CONFIG, rollouts=replace(CONFIG.rollouts, token_capacity=2)))
    with pytest.raises(UserError, match="patches of 16 pixels .* the backbone has 14 and 2"):
        check(replace(CONFIG, limits=replace(CONFIG.limits, patch_size=16)))


def test_memory_is_refused_where_a_device_says_what_it_has(monkeypatch):
    trainer = make_trainer(JOINT, build_mesh(ONE_DEVICE), backbone(), JOINT.data.native_sizes)
    check_memory(trainer, prompt_tokens=30)  # a CPU does not say
    estimate = memory_of(trainer, prompt_tokens=30)
    # 2 prompts, 4 allocations, 30 + 9 positions and 2 tokens whose keys and values are kept, in 2
    # layers of 2 heads of 32, float32.
    assert estimate.cache == 2 * 4 * 2 * (39 + 2) * 2 * 2 * 32 * 4
    device = type(jax.local_devices()[0])
    limit = {"bytes_limit": estimate.total - 1}
    monkeypatch.setattr(device, "memory_stats", lambda self: limit)
    with pytest.raises(UserError, match="a device would need about"):
        check_memory(trainer, prompt_tokens=30)
    limit["bytes_limit"] += 1
    check_memory(trainer, prompt_tokens=30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 3, "mesh": MeshConfig(data=2)},
            "batch_size 3 must be .* mesh.data x mesh.fsdp 2",
        ),
        ({"update": UpdateConfig(mini_batches=4)}, "update.mini_batches 4, update.micro_batches 1"),
        (
            {
                "rollouts": JOINT.rollouts,
                "backbone_training": BackboneTrainingConfig(oversampling=4),
            },
            "backbone_training.oversampling 4, backbone_training.update.mini_batches 1",
        ),
    ],
)
def test_batches_that_cannot_be_shared_out_are_refused(changes, message):
    config = replace(CONFIG, **changes)
    with pytest.raises(UserError, match=message):
        check_batches(config, build_mesh(config.mesh))


def test_prompts_are_of_one_process():
    def devices(*processes):
        return np.array([SimpleNamespace(process_index=p) for p in processes]).reshape(2, 1, 2)

    require_own_prompts(devices(0, 0, 1, 1))
    with pytest.raises(UserError, match="mesh.tensor 2 reaches over several processes"):
        require_own_prompts(devices(0, 1, 0, 1))


@pytest.mark.parametrize(
    "pattern", ["visual.*", "model.layers.0.*", "model.layers.1.*", "model.layers.*.mlp.*"]
)
def test_what_is_frozen_in_part_comes_together_again(pattern):
    whole = backbone().params
    trained, fixed = split_params(whole, (pattern,))
    merged = unstack_layers(merge_params(stack_trained(trained, fixed), fixed))
    assert jax.tree.all(jax.tree.map(np.array_equal, merged, whole))


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    with pytest.raises(UserError, match="4 x 2 x 2, more than the devices that there are: 8"):
        build_mesh(MeshConfig(data=4, fsdp=2, tensor=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"allocator": None}, "train_allocator needs an allocator"),
        ({"train_allocator": False}, "start_allocator"),
        ({"train_allocator": False, "start_allocator": "x"}, "nothing to train"),
        ({"rewards": RewardConfig(overlong_buffer=4)}, "at most 3 tokens"),
        ({"rollouts": FILTERED, "backbone_training": JOINT.backbone_training}, "top_p draw from"),
        (
            {
                "train_allocator": False,
                "start_allocator": "x",
                "rollouts": JOINT.rollouts,
                "backbone_training": BackboneTrainingConfig(ispred=True),
            },
            "ispred weighs by the allocator's update",
        ),
        ({"backbone_training": JOINT.backbone_training}, "temperature is 0"),
        (
            {"rollouts": replace(CONFIG.rollouts, num_allocations=1, num_answers=4)},
            "num_allocations is 1: an allocator learns from what differs",
        ),
        ({"advantage": advantages.GrpoConfig(compare="allocation")}, "num_answers is 1"),
        (
            {
                "rollouts": JOINT.rollouts,
                "backbone_training": BackboneTrainingConfig(
                    advantages="released", grpo=advantages.GrpoConfig(compare="allocation")
                ),
            },
            "backbone_training.grpo.compare is .*num_answers is 1",
        ),
        ({"scale_range": ScaleRange(s_min=0.2, s_max=4.5)}, "no frame is enlarged more than 4.0"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)
