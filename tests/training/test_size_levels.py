"""The few legal sizes of a frame, and the tokens gathered from all of them."""

import jax
import jax.numpy as jnp
import numpy as np

from resadapt_jax.allocator import ScaleRange
from resadapt_jax.generation.visual import encode_pairs
from resadapt_jax.operators import NativeSizes, SizeLimits, scaled_size
from resadapt_jax.training.setting import Geometry
from resadapt_jax.training.size_levels import (
    SizeLevels,
    encode_levels,
    fit_levels,
    gather_levels,
    level_grids,
    size_levels,
    worth_encoding,
)
from tests.training.toy_parts import backbone

LIMITS = SizeLimits(min_pixels=28 * 28)
RANGE = ScaleRange(s_min=0.2, s_max=1.0)


def test_size_levels_are_the_four_of_the_embedded_world():
    levels = size_levels(112, 112, RANGE, LIMITS)
    # 112 px are 4 tokens of 28 px a side; scales from .2 to 1 reach 1, 2, 3 and 4 of them.
    assert levels.rows.tolist() == levels.cols.tolist() == [1, 2, 3, 4]
    assert levels.first_token.tolist() == [0, 1, 5, 14]


def test_frames_that_are_not_square_have_levels_too():
    levels = size_levels(112, 168, RANGE, LIMITS)
    assert (levels.rows[-1], levels.cols[-1]) == (4, 6)
    assert (np.diff(levels.tokens) >= 0).all()


def test_all_levels_are_encoded_where_that_is_less():
    levels = size_levels(112, 112, RANGE, LIMITS)
    # 1 + 4 + 9 + 16 = 30 tokens a pair, 90 for three pairs; four allocations of 45 are twice that.
    assert worth_encoding(levels, 3, num_allocations=4, capacity=45)
    assert not worth_encoding(levels, 3, num_allocations=4, capacity=44)


def test_gathered_tokens_are_those_of_the_planned_path():
    frames = np.random.default_rng(0).integers(0, 256, (2, 6, 28, 56, 3), np.uint8)
    config, params, capacity = backbone().config, backbone().params, 6
    levels = size_levels(28, 56, RANGE, LIMITS)
    assert levels.tokens.tolist() == [1, 2]
    level = jnp.array([[[0, 1, 1], [1, 1, -1]], [[1, 1, 1], [-1, 0, 1]]])

    @jax.jit
    def both_ways(level):
        encoded = encode_levels(params, config, frames, levels, num_shares=2)
        gathered = gather_levels(encoded, level, levels, capacity)
        grids = level_grids(level, levels, 2)
        of_clip = jax.vmap(
            lambda clip, grid: encode_pairs(
                params, config, clip, grid, capacity=capacity, max_height=28, max_width=56
            )[0],
            in_axes=(None, 0),
        )
        return gathered, jax.vmap(of_clip)(frames, grids), jnp.prod(grids, axis=-1).sum(-1) // 4

    gathered, planned, counts = both_ways(level)
    assert counts.tolist() == [[5, 4], [6, 3]]
    valid = np.arange(capacity)[None, None, :] < counts[:, :, None]
    np.testing.assert_allclose(gathered[valid], planned[valid], atol=2e-5)
    # It would show if a level were taken for another: other sizes give other tokens.
    other, _, _ = both_ways(level[:, ::-1])
    assert np.abs((other - planned)[valid]).max() > 0.1


def test_a_budget_leads_to_levels_only():
    native = NativeSizes.alike(112, 112, LIMITS)
    levels = size_levels(112, 112, RANGE, LIMITS)
    level, fitted = fit_levels(jnp.ones((1, 1, 2)), jnp.ones((1, 2), bool), native, 21, levels)
    # Two pairs of 4x4 tokens under 21: the budget shapes them as 4x3 and 3x3, and 4x3 is no level.
    assert level[0, 0].tolist() == [2, 2] and fitted[0, 0]
    assert level_grids(level, levels, 2)[0, 0].tolist() == [[1, 6, 6], [1, 6, 6]]
    alone = jnp.array([[True, False]])
    level, fitted = fit_levels(jnp.ones((1, 1, 2)), alone, native, 21, levels)
    assert level[0, 0].tolist() == [3, -1] and not fitted[0, 0]
    assert level_grids(level, levels, 2)[0, 0].tolist() == [[1, 8, 8], [0, 0, 0]]


def test_levels_count_their_tokens():
    levels = SizeLevels(rows=np.array([1, 2]), cols=np.array([2, 3]))
    assert levels.tokens.tolist() == [2, 6] and levels.first_token.tolist() == [0, 2]


def test_the_least_a_prompt_can_be_fitted_to_is_where_fitting_ends():
    """With limits far from a frame's shape a scale drawn may give less: 2 tokens, 3, 4, ..."""
    limits = SizeLimits(min_pixels=2 * 28**2)
    geometry = Geometry(
        native_sizes=((100, 200),), scale_range=ScaleRange(s_min=0.2, s_max=1.8), limits=limits
    )
    assert geometry.levels[0].tokens[0] == 2
    assert scaled_size(100, 200, 0.0, limits) == (56, 56)
    assert geometry.least_tokens == 4
