"""Rollouts: what is drawn, what it is fitted to, and that passes and paths change no answer."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resadapt_jax.allocator import AllocatorOutput, ScaleRange
from resadapt_jax.allocator.policy import Beta
from resadapt_jax.data.toy_pipeline import question_batches
from resadapt_jax.data.toy_source import ToyClips
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.losses import BackboneLossConfig, add_sums
from resadapt_jax.models.families import family_of
from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.stacking import stack_layers
from resadapt_jax.operators import SizeLimits
from resadapt_jax.training.backbone_step import Graded, answer_all, learn_from, score_all
from resadapt_jax.training.mesh import MeshConfig, build_mesh
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.rollout import (
    Pass,
    draw_allocations,
    fit_allocations,
    plan_passes,
    with_native_grids,
)
from resadapt_jax.training.rollout_config import RolloutConfig
from resadapt_jax.training.setting import Geometry, Setting
from resadapt_jax.training.state import start_part
from resadapt_jax.training.update import UpdateConfig
from tests.training.toy_parts import WORLD, backbone

BATCH = 2
GEOMETRY = Geometry(
    native_sizes=((56, 56),),
    scale_range=ScaleRange(s_min=0.2, s_max=1.0),
    limits=SizeLimits(min_pixels=28 * 28),
)
# Three pairs of 1 or 4 tokens: 3 to 12 in all.
ROLLOUTS = RolloutConfig(
    num_allocations=4,
    num_answers=2,
    token_capacity=9,
    decoding=DecodingConfig(max_new_tokens=3),
)
SETTING = Setting(backbone().config, "float32", GEOMETRY, ROLLOUTS)


@pytest.fixture(scope="module")
def batch():
    world = replace(WORLD, size=56)
    records = next(question_batches(ToyClips(world, BATCH), backbone().tokenizer, BATCH))
    return jax.tree.map(jnp.asarray, PromptBatch.from_records(records))


def allocation(alpha, beta):
    shape = (BATCH, WORLD.num_pairs)
    return AllocatorOutput(
        policy=Beta(alpha=jnp.full(shape, alpha), beta=jnp.full(shape, beta)),
        unit_features=jnp.zeros((*shape, 4)),
        unit_mask=jnp.ones(shape, bool),
        unit_segments=jnp.zeros(shape, jnp.int32),
    )


@jax.jit
def draw(alpha, beta, batch):
    return draw_allocations(allocation(alpha, beta), batch, jax.random.key(1), SETTING)


@pytest.fixture(scope="module")
def drawn(batch):
    return draw(1.0, 1.0, batch)


@pytest.fixture(scope="module")
def answers(batch, drawn):
    passes = plan_passes(np.full(4, 9), ROLLOUTS)
    return answer_all(backbone().params, batch, drawn, passes, jax.random.key(0), SETTING)


def test_a_draw_keeps_its_capacity_and_says_where_it_had_to(batch):
    # Nearly everything at full size: 3 pairs of 4 tokens want 12, the capacity is 9.
    large = draw(50.0, 0.5, batch)
    assert (large.tokens == 9).all() and large.fitted.all()
    # Nearly nothing: one token a pair.
    small = draw(0.5, 50.0, batch)
    assert (small.tokens == 3).all() and not small.fitted.any()


def test_a_draw_is_sorted_and_all_its_parts_with_it(drawn):
    assert (np.diff(drawn.tokens) <= 0).all() and drawn.tokens.min() < drawn.tokens.max()
    np.testing.assert_array_equal(drawn.grid_thw.prod(-1).sum(-1) // 4, drawn.tokens)
    np.testing.assert_allclose(drawn.scales, 0.2 + 0.8 * drawn.actions, rtol=1e-6)
    # A pair of 56 px has four tokens from scale .75 on: 42 px round to 56.
    wanted = jnp.where(drawn.scales >= 0.75, 4, 1).sum(-1)
    np.testing.assert_array_equal(drawn.tokens[~drawn.fitted], wanted[~drawn.fitted])
    again = allocation(1.0, 1.0).policy.log_prob(drawn.actions)
    # Outside jit the last bit may differ; that the trainer's ratio is exactly 1 is tested there.
    np.testing.assert_allclose(again, drawn.log_probs, rtol=1e-6, atol=1e-6)


def test_allocations_encoded_one_by_one_are_as_those_gathered(batch, drawn, answers):
    alone = ROLLOUTS.__class__(
        num_allocations=1, num_answers=2, token_capacity=9, decoding=ROLLOUTS.decoding
    )
    setting = SETTING._replace(rollouts=alone)
    assert SETTING.levels(WORLD.num_pairs) is not None and setting.levels(WORLD.num_pairs) is None

    def fit(actions):
        return fit_allocations(actions, actions, drawn.unit_mask, batch, setting)

    one = drawn.actions[:, 1:2]
    of_one = jax.jit(fit)(one)
    assert of_one.level is None
    np.testing.assert_array_equal(of_one.grid_thw, drawn.grid_thw[:, 1:2])
    passes = plan_passes(np.array([9]), alone)
    got = answer_all(backbone().params, batch, of_one, passes, jax.random.key(0), setting)
    np.testing.assert_array_equal(got.token_ids, answers.token_ids[:, 1:2])
    np.testing.assert_allclose(got.log_probs, answers.log_probs[:, 1:2], atol=2e-5)


def test_frames_of_differing_size_on_a_canvas_are_as_frames_of_their_own(batch):
    """A prompt of 28 x 56 beside one of 56 x 56, on a canvas of 84 x 56 with noise around them."""
    rng = np.random.default_rng(0)
    sizes = ((28, 56), (56, 56))
    frames = rng.integers(0, 256, (BATCH, 6, 84, 56, 3), np.uint8)
    alone = ROLLOUTS.__class__(
        num_allocations=2, num_answers=1, token_capacity=12, decoding=ROLLOUTS.decoding
    )
    geometry = GEOMETRY._replace(native_sizes=sizes)
    setting = SETTING._replace(rollouts=alone, geometry=geometry)
    index = np.repeat([[0], [1]], WORLD.num_pairs, axis=1)
    mixed = batch.replace(frames=jnp.asarray(frames), native_index=jnp.asarray(index))
    actions = jnp.asarray(rng.uniform(size=(BATCH, 2, WORLD.num_pairs)), jnp.float32)
    units = jnp.ones((BATCH, WORLD.num_pairs), bool)

    def answers(batch, setting):
        @jax.jit
        def fit(batch):
            return fit_allocations(actions, actions, units, batch, setting)

        drawn = fit(batch)
        passes = plan_passes(np.full(2, 12), setting.rollouts)
        args = backbone().params, batch, drawn, passes, jax.random.key(0), setting
        return drawn, answer_all(*args)

    drawn, got = answers(mixed, setting)
    height, width = sizes[0]
    own = batch.replace(frames=jnp.asarray(frames[:, :, :height, :width]))
    alike = setting._replace(geometry=GEOMETRY._replace(native_sizes=((height, width),)))
    expected_draw, expected = answers(own, alike)
    np.testing.assert_array_equal(drawn.grid_thw[0], expected_draw.grid_thw[0])
    np.testing.assert_array_equal(got.token_ids[0], expected.token_ids[0])
    np.testing.assert_allclose(got.log_probs[0], expected.log_probs[0], atol=2e-5)
    assert drawn.grid_thw[0, ..., 1].max() <= 2 < drawn.grid_thw[1, ..., 1].max()


def test_passes_by_capacity_change_no_answer(batch, drawn, answers):
    rollouts = replace(ROLLOUTS, allocations_per_pass=2, capacity_shares=(0.75, 1.0))
    most = np.asarray(drawn.tokens.max(axis=0))
    passes = plan_passes(most, rollouts)
    assert [one.start for one in passes] == [0, 2]
    # Shares of 9: 7 (6.75 rounded) and 9.
    assert [one.capacity for one in passes] == [7 if n <= 7 else 9 for n in most[::2]]
    assert passes[0].capacity > passes[1].capacity
    setting = SETTING._replace(rollouts=rollouts)
    got = answer_all(backbone().params, batch, drawn, passes, jax.random.key(0), setting)
    np.testing.assert_array_equal(got.token_ids, answers.token_ids)
    np.testing.assert_allclose(got.log_probs, answers.log_probs, atol=2e-5)
    # Scored pass by pass, an answer has the log-probs that it was drawn with.
    scores = score_all(backbone().params, batch, drawn, got, passes, setting)
    np.testing.assert_allclose(scores, got.log_probs, atol=1e-4)
    assert np.abs(got.log_probs[got.mask]).min() > 1e-3
    # It would show if one allocation were taken for another.
    order = np.array([1, 0, 3, 2])  # within their passes
    swapped = drawn.replace(level=drawn.level[:, order], grid_thw=drawn.grid_thw[:, order])
    other = score_all(backbone().params, batch, swapped, got, passes, setting)
    assert np.abs(other - got.log_probs).max() > 1e-3


@pytest.fixture(scope="module")
def sampling():
    """Draws at a temperature other than 1, in passes of two."""
    decoding = DecodingConfig(max_new_tokens=3, temperature=0.6)
    return SETTING._replace(rollouts=replace(ROLLOUTS, allocations_per_pass=2, decoding=decoding))


PASSES = [Pass(0, 9), Pass(2, 9)]


def test_scores_are_those_of_the_distribution_that_was_drawn_from(batch, drawn, sampling):
    given = batch, drawn, PASSES, jax.random.key(0), sampling
    got = answer_all(backbone().params, *given)
    scores = score_all(backbone().params, batch, drawn, got, PASSES, sampling)
    np.testing.assert_allclose(scores, got.log_probs, atol=1e-4)
    tempered = replace(ROLLOUTS, decoding=DecodingConfig(max_new_tokens=3, temperature=1.0))
    plain = score_all(
        *(backbone().params, batch, drawn, got, [Pass(0, 9)]), SETTING._replace(rollouts=tempered)
    )
    assert np.abs(plain - got.log_probs).max() > 1e-2


def test_every_pass_draws_anew(batch, drawn, sampling):
    """All tokens are equally likely, so that nothing but the draws can differ."""
    params = backbone().params  # embeddings are the head too
    silent = {"weight": jnp.zeros_like(params["model"]["embed_tokens"]["weight"])}
    params = params | {"model": params["model"] | {"embed_tokens": silent}}
    given = batch, drawn, PASSES, jax.random.key(0), sampling
    token_ids = answer_all(params, *given).token_ids
    assert (token_ids[:, :2] != token_ids[:, 2:]).any()


def test_passes_and_mini_batches_change_no_update(batch, drawn, answers):
    """Both prompts in one pass, one after the other, or in two passes of two mini-batches."""
    rng, mesh = np.random.default_rng(0), build_mesh(MeshConfig(data=1))
    optimizer, table = optax.sgd(0.5), family_of(backbone().config).partition
    graded = Graded(
        answers=answers,
        old_log_probs=answers.log_probs,
        advantages=jnp.asarray(rng.normal(size=answers.mask.shape[:3]), jnp.float32),
        mask=answers.mask,
        ref_log_probs=None,
    )

    def fresh():
        return start_part(stack_layers(backbone().params), table, optimizer, mesh)

    def learn(part, rows, passes, per_pass, mini_batches):
        rollouts = replace(ROLLOUTS, allocations_per_pass=per_pass)
        given = jax.tree.map(lambda x: x[rows], (batch, drawn, graded))
        return learn_from(
            *(part, {}, *given, passes),
            setting=SETTING._replace(rollouts=rollouts),
            loss=BackboneLossConfig(),
            update=UpdateConfig(epochs=1, mini_batches=mini_batches),
            optimizer=optimizer,
            mesh=mesh,
        )

    part, first, _ = learn(fresh(), slice(0, 1), [Pass(0, 9)], 0, 1)
    expected, second, expected_norm = learn(part, slice(1, 2), [Pass(0, 9)], 0, 1)
    got, sums, norm = learn(fresh(), slice(None), PASSES, 2, 2)
    np.testing.assert_allclose(norm, expected_norm, rtol=1e-4)
    for name, value in add_sums(first, second).items():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), value, sums[name]
        )
    moved = 0.0
    for a, b, old in zip(
        *map(jax.tree.leaves, (expected.params, got.params, fresh().params)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-5)
        moved = max(moved, float(jnp.abs(a - old).max()))
    assert moved > 1e-2


def test_units_of_frames_are_shown_at_the_mean_scale_of_their_pair(batch, drawn):
    actions = jax.random.uniform(jax.random.key(3), (BATCH, 4, 2 * WORLD.num_pairs))
    means = actions.reshape(BATCH, 4, WORLD.num_pairs, 2).mean(axis=-1)

    def fit(actions, units):
        return fit_allocations(actions, actions, units, batch, SETTING)

    frames = jax.jit(fit)(actions, jnp.repeat(drawn.unit_mask, 2, axis=1))
    pairs = jax.jit(fit)(means, drawn.unit_mask)
    np.testing.assert_array_equal(frames.grid_thw, pairs.grid_thw)
    assert frames.scales.shape == actions.shape
    first = jax.jit(fit)(actions[:, :, ::2], drawn.unit_mask)
    assert (first.grid_thw != pairs.grid_thw).any()


def test_the_sizes_at_scale_one_are_legal(batch):
    """56 x 56; and of 63 x 84 pixels, 2.25 and 3 tokens, 56 x 84: 4 x 6 patches of 14."""
    geometry = GEOMETRY._replace(native_sizes=((56, 56), (63, 84)))
    index = jnp.array([[0] * WORLD.num_pairs, [1] * WORLD.num_pairs])
    native = with_native_grids(batch.replace(native_index=index), geometry).native_thw
    np.testing.assert_array_equal(native[0], [[1, 4, 4]] * WORLD.num_pairs)
    np.testing.assert_array_equal(native[1], [[1, 4, 6]] * WORLD.num_pairs)


def test_conventions_reach_the_rollout(batch, drawn):
    """Under each a rollout traces; those that share a clock need to know the time."""

    def answer(convention, batch):
        setting = SETTING._replace(geometry=GEOMETRY._replace(convention=convention))
        passes = plan_passes(np.full(4, 9), ROLLOUTS)
        return jax.eval_shape(
            lambda params: answer_all(params, batch, drawn, passes, jax.random.key(0), setting),
            backbone().params,
        )

    for convention in Convention:
        assert answer(convention, batch).token_ids.shape == (BATCH, 4, 2, 3)
        timeless = batch.replace(prompts=batch.prompts.replace(pair_milliseconds=None))
        if convention.shares_anchor:
            with pytest.raises(ValueError, match="needs entry_milliseconds"):
                answer(convention, timeless)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("allocations_per_pass", 3),
        ("capacity_shares", ()),
        ("capacity_shares", (0.5,)),
        ("capacity_shares", (0.0, 1.0)),
        ("num_answers", 0),
    ],
)
def test_rollouts_that_cannot_be_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        replace(ROLLOUTS, **{field: value})
