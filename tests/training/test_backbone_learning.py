"""What a step's backbone computes with, and what it learns from."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax import advantages
from resadapt_jax.errors import UserError
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.losses import BackboneLossConfig
from resadapt_jax.losses.aggregate import Extremes
from resadapt_jax.models.stacking import stack_layers, unstack_layers
from resadapt_jax.training import backbone_step
from resadapt_jax.training import step as training
from resadapt_jax.training.backbone_step import Graded
from resadapt_jax.training.mesh import build_mesh, put_batch
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.recipe import open_backbone
from resadapt_jax.training.rollout import Pass
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.state import merge_params, split_params, stack_trained
from tests.training.step_parts import CONFIG, JOINT, ONE_DEVICE, Run, records
from tests.training.toy_parts import backbone


def test_a_backbone_in_training_has_float32_parameters():
    """Whatever it computes in: an update of 1e-6 would vanish in bfloat16."""
    for config, held in ((JOINT, "float32"), (CONFIG, "bfloat16")):
        config = replace(config, backbone_dtype="bfloat16")
        read = open_backbone(config, build_mesh(ONE_DEVICE))
        assert {x.dtype for x in jax.tree.leaves(read.params)} == {jnp.dtype(held)}
    trained = Run(replace(JOINT, backbone_dtype="bfloat16")).state.backbone.params
    assert {x.dtype for x in jax.tree.leaves(trained)} == {jnp.dtype("float32")}


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


@pytest.mark.parametrize(
    "pattern", ["visual.*", "model.layers.0.*", "model.layers.1.*", "model.layers.*.mlp.*"]
)
def test_what_is_frozen_in_part_comes_together_again(pattern):
    whole = backbone().params
    trained, fixed = split_params(whole, (pattern,))
    merged = unstack_layers(merge_params(stack_trained(trained, fixed), fixed))
    assert jax.tree.all(jax.tree.map(np.array_equal, merged, whole))
