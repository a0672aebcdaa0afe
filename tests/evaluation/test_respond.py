"""The batch's packed path equals the planned path clip by clip, and what is dropped is gone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_parts import LIMITS, backbone, build_prompts, clips

from resadapt_jax.errors import UserError
from resadapt_jax.evaluation import methods, respond
from resadapt_jax.evaluation.methods import Inputs, Proposals
from resadapt_jax.generation.answer import DecodingConfig, answer
from resadapt_jax.models.prompt_layout import PromptLayout
from resadapt_jax.operators import CapacityLadder

NATIVE = 12
LADDER = CapacityLadder(steps=(3, 6, 12))
DECODING = DecodingConfig(max_new_tokens=3)
NOTHING = Proposals(np.ones((4, 3)), np.ones((4, 3)))


def grids(sides):
    """Square grids of so many tokens a side, in patches; (0, 0, 0) for none."""
    sides = np.array(sides, np.int32)
    return np.stack([(sides > 0).astype(np.int32), 2 * sides, 2 * sides], axis=-1)


def run(inputs, visual=None):
    shown = respond.show(backbone(), clips().batch.frames, inputs.grid_thw, LADDER)
    if visual is not None:
        shown = shown._replace(visual=visual(shown.visual))
    return respond.respond(backbone(), shown, inputs, LADDER, DECODING)


def assert_same_answers(first, second):
    assert first.num_tokens.tolist() == second.num_tokens.tolist()
    first, second = first.generation, second.generation
    assert np.array_equal(first.token_ids, second.token_ids)
    np.testing.assert_allclose(first.log_probs, second.log_probs, atol=2e-5)


def test_packed_batch_answers_as_clip_by_clip():
    """Clips of 3, 9, 12 and 6 tokens: every clip starts elsewhere in the packed sequence."""
    grid_thw = grids([[1, 1, 1], [2, 1, 2], [2, 2, 2], [1, 2, 1]])
    packed = run(Inputs(grid_thw=grid_thw, prompts=clips().batch.prompts))
    planned = jax.jit(
        lambda params, frames, grid_thw, prompts: answer(
            params,
            backbone().config,
            frames,
            grid_thw,
            prompts,
            capacity=NATIVE,
            decoding=DECODING,
            key=jax.random.key(0),
        )
    )(backbone().params, clips().batch.frames, grid_thw, clips().batch.prompts)
    assert packed.num_tokens.tolist() == [3, 9, 12, 6]
    assert not packed.overflow.any()
    assert_same_answers(packed, planned)
    # It depends on what is shown: swapping two clips' sizes changes the log-probs.
    swapped = run(Inputs(grid_thw=grid_thw[[0, 2, 1, 3]], prompts=clips().batch.prompts))
    assert np.abs(swapped.generation.log_probs - packed.generation.log_probs).max() > 1e-3


def test_a_larger_capacity_changes_nothing():
    """The same clips beside one that needs the whole capacity: padding is not seen."""
    prompts = clips().batch.prompts
    small = run(Inputs(grid_thw=grids([[1, 1, 1]] * 4), prompts=prompts))
    large = run(Inputs(grid_thw=grids([[1, 1, 1]] * 3 + [[2, 2, 2]]), prompts=prompts))
    assert small.num_tokens.tolist() == [3] * 4 and large.num_tokens.tolist() == [3, 3, 3, 12]
    np.testing.assert_allclose(
        small.generation.log_probs[:3], large.generation.log_probs[:3], atol=2e-5
    )


def test_absent_pairs_cost_nothing_and_leave_the_others_alone():
    """Each pair that is shown has the tokens that it would have alone, and no others are there."""
    grid_thw = grids([[0, 2, 1], [1, 0, 0], [0, 0, 2], [2, 2, 0]])
    shown = respond.show(backbone(), clips().batch.frames, grid_thw, LADDER)
    assert shown.num_tokens.tolist() == [5, 1, 4, 8]
    for clip, pair, first in ((0, 1, 0), (0, 2, 4), (1, 0, 0), (2, 2, 0), (3, 0, 0), (3, 1, 4)):
        alone = np.zeros_like(grid_thw)
        alone[clip, pair] = grid_thw[clip, pair]
        single = respond.show(backbone(), clips().batch.frames, alone, LADDER)
        count = int(single.num_tokens[clip])
        np.testing.assert_allclose(
            shown.visual[clip, first : first + count], single.visual[clip, :count], atol=2e-5
        )
        assert np.abs(single.visual[clip, :count]).max() > 1e-2


def test_keeping_every_token_is_vanilla():
    full = methods.vanilla(clips(), NOTHING, limits=LIMITS)
    dropped = methods.drop_tokens(1.0, clips(), NOTHING, limits=LIMITS, seed=2)
    assert dropped.kept.all()
    assert_same_answers(run(full), run(dropped))


def test_dropped_tokens_are_invisible():
    half = methods.drop_tokens(0.5, clips(), NOTHING, limits=LIMITS, seed=2)
    kept = jnp.asarray(half.kept)[:, :, None]
    clean = run(half)
    assert clean.num_tokens.tolist() == [6] * 4
    poisoned = run(half, lambda visual: jnp.where(kept, visual, jnp.nan))
    assert np.isfinite(poisoned.generation.log_probs).all()
    assert_same_answers(clean, poisoned)
    # The kept ones do count.
    moved = run(half, lambda visual: jnp.where(kept, jnp.roll(visual, 1, axis=2), visual))
    assert np.abs(moved.generation.log_probs - clean.generation.log_probs).max() > 1e-3


def test_dropping_compacts_and_leaves_positions():
    """Text, tokens 0 to 3, text, padding; tokens 0 and 3 stay."""
    layout = PromptLayout(
        token_ids=jnp.array([[5, 9, 9, 9, 9, 6, 0]]),
        visual_index=jnp.array([[-1, 0, 1, 2, 3, -1, -1]]),
        position_ids=jnp.arange(7)[None, None, :] * jnp.array([1, 10, 100])[None, :, None],
        mask=jnp.array([[True] * 6 + [False]]),
        length=jnp.array([6]),
        next_position=jnp.array([4]),
        overflow=jnp.array([False]),
    )
    kept = jnp.array([[True, False, False, True]])
    out = respond.drop_from(layout, kept, 5)
    assert out.token_ids.tolist() == [[5, 9, 9, 6, 0]]
    assert out.visual_index.tolist() == [[-1, 0, 3, -1, -1]]
    assert out.position_ids[0, 1].tolist() == [0, 10, 40, 50, 0]
    assert out.mask.tolist() == [[True] * 4 + [False]]
    assert out.length.tolist() == [4] and out.next_position.tolist() == [4]
    assert out.overflow.tolist() == [False]
    assert respond.drop_from(layout, kept, 3).overflow.tolist() == [True]


def test_blind_sees_no_frame():
    inputs = methods.blind(clips(), NOTHING, build_prompts=build_prompts)
    answers = run(inputs, lambda visual: jnp.full_like(visual, jnp.nan))
    assert answers.num_tokens.tolist() == [0] * 4
    assert np.isfinite(answers.generation.log_probs).all()


def test_what_no_capacity_holds_is_refused():
    ladder = CapacityLadder(steps=(2, 4))
    with pytest.raises(UserError, match="5 visual tokens exceed the largest capacity, 4"):
        respond.show(backbone(), clips().batch.frames, grids([[2, 1, 0]] + [[1, 0, 0]] * 3), ladder)
