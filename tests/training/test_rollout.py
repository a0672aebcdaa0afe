"""Rollouts: the level cache against the planned path, budgets, and what is drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.allocator import AllocatorOutput, Beta, ScaleRange
from resadapt_jax.data.toy_pipeline import question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.generation.answer import DecodingConfig, Prompts, answer, encode_pairs, lay_out
from resadapt_jax.models.convention import Convention
from resadapt_jax.models.qwen2_5_vl import model
from resadapt_jax.operators import SizeLimits
from resadapt_jax.training.rollout import (
    RolloutConfig,
    answer_allocations,
    encode_levels,
    fit_levels,
    level_grids,
    level_index,
    rollout,
    size_levels,
)
from tests.training.toy_parts import WORLD, backbone

LIMITS = SizeLimits(min_pixels=28 * 28)
RANGE = ScaleRange(s_min=0.2, s_max=1.0)
BATCH = 2


@pytest.fixture(scope="module")
def batch():
    records = next(question_batches(ToyClips(WORLD, BATCH), backbone().tokenizer, BATCH))
    prompts = jax.tree.map(jnp.asarray, Prompts.from_records(records))
    return jnp.asarray(records["frames"]), prompts


def test_size_levels_are_the_four_of_the_embedded_world():
    levels = size_levels(112, 112, RANGE, LIMITS)
    # 112 px are 4 tokens of 28 px a side; scales from .2 to 1 reach 1, 2, 3 and 4 of them.
    assert levels.rows.tolist() == levels.cols.tolist() == [1, 2, 3, 4]
    assert levels.first_token.tolist() == [0, 1, 5, 14]


def test_frames_that_are_not_square_have_levels_too():
    levels = size_levels(112, 168, RANGE, LIMITS)
    assert (levels.rows[-1], levels.cols[-1]) == (4, 6)
    assert (np.diff(levels.tokens) >= 0).all()


@pytest.mark.parametrize("size", [(112, 112), (84, 140)])
def test_cached_tokens_are_those_of_the_planned_path(batch, size):
    frames, prompts = batch
    frames = frames[:, :, : size[0]]
    frames = jnp.tile(frames, (1, 1, 1, 2, 1))[:, :, :, : size[1]]
    config, params = backbone().config, backbone().params
    levels = size_levels(*size, RANGE, LIMITS)
    most = int(levels.tokens[-1])
    capacity = 3 * most

    @jax.jit
    def both_ways(level):
        grids = level_grids(level, levels, 2)
        layout = lay_out(prompts, grids, config, capacity)
        index = level_index(layout, level, levels)
        tokens = encode_levels(params, config, frames, levels)
        cached = model.embed_prompt(params, config, layout.replace(visual_index=index), tokens)
        bounds = {"max_height": -(-size[0] // 28) * 28, "max_width": -(-size[1] // 28) * 28}
        tokens, _ = jax.vmap(
            lambda clip, grid: encode_pairs(params, config, clip, grid, capacity=capacity, **bounds)
        )(frames, grids)
        return cached, model.embed_prompt(params, config, layout, tokens), index

    scales = jnp.array([[[0.2, 1.0, 0.5]], [[0.8, 0.4, 0.9]]])
    mask = jnp.ones(frames.shape[:2], bool)
    level, _ = fit_levels(scales, mask, *size, capacity, levels, LIMITS)
    cached, planned, index = both_ways(level[:, 0])
    assert ((index >= 0).sum(axis=1) == levels.tokens[level[:, 0]].sum(axis=1)).all()
    np.testing.assert_allclose(cached, planned, atol=2e-5)
    # It would show if a level were taken for another: other sizes give other tokens.
    other, _, _ = both_ways(level[::-1, 0])
    assert jnp.abs(other - cached).max() > 0.1


def test_a_budget_leads_to_levels_only():
    levels = size_levels(112, 112, RANGE, LIMITS)
    scales, mask = jnp.ones((1, 1, 2)), jnp.array([[True, True, True, False]])
    level, fitted = fit_levels(scales, mask, 112, 112, 21, levels, LIMITS)
    # Two pairs of 4x4 tokens under 21: the budget shapes them as 4x3 and 3x3, and 4x3 is no level.
    assert level[0, 0].tolist() == [2, 2] and fitted[0, 0]
    assert level_grids(level, levels, 2)[0, 0].tolist() == [[1, 6, 6], [1, 6, 6]]
    alone = jnp.array([[True, True, False, False]])
    level, fitted = fit_levels(scales, alone, 112, 112, 21, levels, LIMITS)
    assert level[0, 0].tolist() == [3, -1] and not fitted[0, 0]
    assert level_grids(level, levels, 2)[0, 0].tolist() == [[1, 8, 8], [0, 0, 0]]


def _allocation(alpha, beta):
    shape = (BATCH, WORLD.num_pairs)
    return AllocatorOutput(
        policy=Beta(alpha=jnp.full(shape, alpha), beta=jnp.full(shape, beta)),
        unit_features=jnp.zeros((*shape, 4)),
        unit_mask=jnp.ones(shape, bool),
    )


@pytest.fixture(scope="module")
def run(batch):
    frames, prompts = batch
    rollouts = RolloutConfig(num_allocations=3, num_answers=2, token_capacity=30)

    @jax.jit
    def go(allocation, key):
        return rollout(
            backbone().params,
            backbone().config,
            frames,
            jnp.ones(frames.shape[:2], bool),
            prompts,
            allocation,
            key,
            rollouts=rollouts,
            scale_range=RANGE,
            limits=LIMITS,
        )

    return go


def test_a_rollout_keeps_its_capacity_and_says_where_it_had_to(run):
    # Nearly everything at full size: 3 pairs of 16 tokens want 48, the capacity is 30.
    drawn = run(_allocation(50.0, 0.5), jax.random.key(0))
    assert (drawn.tokens <= 30).all() and (drawn.tokens >= 27).all()
    assert drawn.fitted.all()
    # Nearly nothing: one token a pair.
    drawn = run(_allocation(0.5, 50.0), jax.random.key(0))
    assert (drawn.tokens == 3).all()
    assert not drawn.fitted.any()


def test_a_rollout_has_its_shapes_and_its_own_log_probs(run):
    allocation = _allocation(2.0, 3.0)
    drawn = run(allocation, jax.random.key(1))
    assert drawn.actions.shape == (BATCH, 3, 3)
    assert drawn.answers.token_ids.shape == (BATCH, 3, 2, 5)
    again = allocation.policy.log_prob(drawn.actions)
    # Outside jit the last bit may differ; that the recipe's ratio is exactly 1 is tested there.
    np.testing.assert_allclose(again, drawn.log_probs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(drawn.scales, 0.2 + 0.8 * drawn.actions, rtol=1e-6)


@pytest.mark.parametrize("alpha, beta, binds", [(2.0, 2.0, False), (50.0, 0.5, True)])
def test_greedy_answers_are_those_of_the_planned_path(batch, run, alpha, beta, binds):
    frames, prompts = batch
    drawn = run(_allocation(alpha, beta), jax.random.key(2))
    assert bool(drawn.fitted.any()) == binds
    mask = jnp.ones(frames.shape[:2], bool)
    levels = size_levels(112, 112, RANGE, LIMITS)
    level, _ = fit_levels(drawn.scales, mask, 112, 112, 30, levels, LIMITS)
    grids = level_grids(level, levels, 2)

    @jax.jit
    def plan_and_answer(grid_thw):
        return answer(
            backbone().params,
            backbone().config,
            frames,
            grid_thw,
            prompts,
            capacity=30,
            decoding=DecodingConfig(),
            key=jax.random.key(0),
        )

    for allocation in range(3):
        planned = plan_and_answer(grids[:, allocation])
        assert (planned.num_tokens == drawn.tokens[:, allocation]).all()
        for n in range(2):
            got = drawn.answers.token_ids[:, allocation, n]
            assert (planned.generation.token_ids == got).all()


def test_scales_per_frame_are_averaged_over_the_pair():
    scales = jnp.array([[[0.2, 0.8, 1.0, 1.0]]])
    levels = size_levels(112, 112, RANGE, LIMITS)
    level, _ = fit_levels(scales, jnp.ones((1, 4), bool), 112, 112, 100, levels, LIMITS)
    # The first pair's mean is .5: 56 px, two tokens a side, the second level of four.
    assert level[0, 0].tolist() == [1, 3]


def test_conventions_reach_the_rollout(batch):
    """Under each a rollout traces; those that share a clock need to know the time."""
    frames, prompts = batch
    config, params = backbone().config, backbone().params
    levels = size_levels(*frames.shape[2:4], RANGE, LIMITS)
    visual = jax.ShapeDtypeStruct((BATCH, 3 * int(levels.tokens.sum()), 128), jnp.float32)
    level = jax.ShapeDtypeStruct((BATCH, 2, 3), jnp.int32)
    rollouts = RolloutConfig(num_allocations=2, token_capacity=48)
    for convention in Convention:
        grids = jnp.ones((BATCH, 3, 3), jnp.int32)
        told = prompts.replace(native_thw=grids)
        answer = functools.partial(
            answer_allocations,
            config=config,
            levels=levels,
            rollouts=rollouts,
            key=jax.random.key(0),
            convention=convention,
        )
        drawn = jax.eval_shape(answer, params, visual=visual, level=level, prompts=told)
        assert drawn.token_ids.shape == (BATCH, 2, 1, 5)
        timeless = prompts.replace(pair_milliseconds=None)
        if convention.shares_anchor:
            with pytest.raises(ValueError, match="needs entry_milliseconds"):
                jax.eval_shape(answer, params, visual=visual, level=level, prompts=timeless)
