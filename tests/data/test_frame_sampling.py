"""How many frames, which, and at what size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resadapt_jax.data import frame_sampling
from resadapt_jax.data.frame_sampling import SamplingConfig, frames_within, planned_frames
from resadapt_jax.data.frame_size import native_size
from resadapt_jax.errors import UserError
from resadapt_jax.operators.sizes import SizeLimits

# --- how many -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "count"),
    [
        (0.0, 4),  # never fewer than the least
        (2.4, 4),  # 4.8 frames round to 4, the even number nearest
        (2.6, 6),  # 5.2 to 6
        (10.0, 20),
        (31.9, 64),
        (3600.0, 64),
        (1e300, 64),
    ],
)
def test_counts_are_even_and_within_the_limits(duration, count):
    assert SamplingConfig(fps=2.0, min_frames=4, max_frames=64).frame_count(duration) == count


def test_odd_limits_go_to_the_even_numbers_within():
    config = SamplingConfig(fps=1.0, min_frames=5, max_frames=9)
    assert config.frame_count(0.0) == 6
    assert config.frame_count(100.0) == 8


def test_a_row_has_limits_of_its_own_but_no_more_room():
    config = SamplingConfig(fps=1.0, min_frames=4, max_frames=32)
    assert config.frame_count(2.0, min_frames=16) == 16
    assert config.frame_count(100.0, max_frames=8) == 8
    assert config.frame_count(100.0, max_frames=1) == 2  # a pair
    assert config.frame_count(100.0, min_frames=64, max_frames=768) == 32
    assert config.frame_count(1.0, min_frames=1) == 2


@pytest.mark.parametrize(
    "wrong", [{"fps": 0.0}, {"fps": float("inf")}, {"min_frames": 0}, {"max_frames": 1},
              {"min_frames": 10, "max_frames": 8}]
)  # fmt: skip
def test_limits_that_cannot_be_met_are_refused(wrong):
    with pytest.raises(UserError, match="sampling: "):
        SamplingConfig(**wrong)


def test_a_plan_goes_by_what_the_container_states():
    config = SamplingConfig(fps=2.0, min_frames=4, max_frames=64)
    assert planned_frames(10.0, 250, config) == 20
    assert planned_frames(10.0, None, config) == 20
    assert planned_frames(10.0, 7, config) == 7  # there are no more
    assert planned_frames(10.0, 250, config, start=6.0) == 8  # of four seconds
    assert planned_frames(10.0, 250, config, start=6.0, end=99.0) == 8
    assert planned_frames(10.0, 20, config, start=6.0, end=7.0, min_frames=4) == 2  # 2 a second
    with pytest.raises(UserError, match="from 10 s on, but lasts 10 s"):
        planned_frames(10.0, 250, config, start=10.0)


# --- which --------------------------------------------------------------------------------------

TENTHS = np.arange(40) / 10


def test_frames_within_bounds_include_both():
    assert frames_within(TENTHS, None, None).tolist() == list(range(40))
    assert frames_within(TENTHS, 0.3, 0.6).tolist() == [3, 4, 5, 6]
    assert frames_within(TENTHS, 3.7, None).tolist() == [37, 38, 39]
    assert frames_within(TENTHS, None, 0.15).tolist() == [0, 1]


def test_bounds_between_two_frames_give_the_nearest():
    # Nothing lies between 1.02 and 1.08; 1.1 is nearer to 1.07 than 1.0 is, 1.0 nearer to 1.03.
    assert frames_within(TENTHS, 1.06, 1.08).tolist() == [11]
    assert frames_within(TENTHS, 1.02, 1.04).tolist() == [10]


def test_the_last_frame_lasts_as_long_as_the_others():
    assert frames_within(TENTHS, 3.95, None).tolist() == [39]
    with pytest.raises(UserError, match="from 4.01 s on"):
        frames_within(TENTHS, 4.01, None)


def test_bounds_after_the_end_are_refused():
    with pytest.raises(UserError, match="from 5 s on, but its last frame is at 3.9 s"):
        frames_within(TENTHS, 5.0, None)


def test_spread_takes_even_indices_of_even_times():
    assert frame_sampling.spread(np.arange(10.0), 4).tolist() == [0, 3, 6, 9]
    assert frame_sampling.spread(np.arange(10.0), 1).tolist() == [0]


def test_spread_goes_by_time_and_not_by_index():
    # Targets 0, 4 and 8 s; by index the middle one would be frame 2 or 3, at 0.2 or 0.3 s.
    assert frame_sampling.spread(np.array([0.0, 0.1, 0.2, 0.3, 4.1, 8.0]), 3).tolist() == [0, 4, 5]


def test_spread_fills_up_with_neighbours_instead_of_repeating():
    # Targets 0, 33.3, 66.7 and 100 s are nearest to frames 0, 3, 4, 4. Frame 4 cannot serve twice
    # and is the last one, so the two before it move down: 0, 2, 3, 4.
    assert frame_sampling.spread(np.array([0.0, 1.0, 2.0, 3.0, 100.0]), 4).tolist() == [0, 2, 3, 4]


@settings(deadline=None)
@given(
    gaps=st.lists(st.floats(0.001, 100.0), min_size=0, max_size=60),
    count=st.integers(1, 70),
)
def test_spread_never_repeats_and_keeps_both_ends(gaps, count):
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    chosen = frame_sampling.spread(times, count)
    assert len(chosen) == min(count, len(times))
    assert np.all(np.diff(chosen) > 0)
    assert chosen[0] == 0
    assert count == 1 or chosen[-1] == len(times) - 1


# --- size ---------------------------------------------------------------------------------------


def test_a_frame_keeps_its_legal_size_if_there_is_room():
    limits = SizeLimits()
    # 100 / 28 = 3.57 and 130 / 28 = 4.64 round to 4 and 5.
    assert native_size(100, 130, limits) == (112, 140)
    assert native_size(100, 130, limits, (112, 140)) == (112, 140)
    assert native_size(100, 130, limits, (560, 560)) == (112, 140)


def test_a_frame_without_room_shrinks_on_both_sides():
    limits = SizeLimits()
    # 280 x 560 into 140 x 560: times 1/2. Into 200 x 560: times 0.714, 200 and 400 floor to
    # 7 and 14 tokens of 28.
    assert native_size(280, 560, limits, (140, 560)) == (140, 280)
    assert native_size(280, 560, limits, (200, 560)) == (196, 392)
    assert native_size(280, 560, limits, (28, 28)) == (28, 28)  # never less than a token
