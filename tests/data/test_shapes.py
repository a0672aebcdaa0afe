"""A few shapes that hold every row, with little padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resadapt_jax.data.shapes import BatchShape, assign, choose_shapes, padding, shape_cost


def needs(*rows):
    return np.array(rows)


def test_cost_is_pixels_and_the_pixels_of_as_many_visual_tokens():
    # 4 · 28 · 56 = 6272, and 48 tokens of 2 · 28 · 28 = 1568.
    assert shape_cost(np.array([4, 28, 56, 32, 16])) == 6272 + 48 * 1568


def test_as_many_shapes_as_needs_pad_nothing_but_tokens():
    rows = needs([16, 56, 56, 16, 16], [4, 28, 28, 32, 16])
    shapes = choose_shapes(rows, 4)
    assert shapes == (BatchShape(4, 28, 28, 32, 16), BatchShape(16, 56, 56, 16, 16))
    assert assign(rows, shapes).tolist() == [1, 0]
    assert padding(rows, shapes) == 0
    assert choose_shapes(needs([4, 28, 28, 17, 1]), 4) == (BatchShape(4, 28, 28, 32, 16),)


def test_one_shape_is_as_large_as_each_largest_need():
    rows = needs([8, 56, 28, 16, 16], [4, 28, 84, 32, 16])
    assert choose_shapes(rows, 1) == (BatchShape(8, 56, 84, 32, 16),)


def test_the_two_that_pad_least_are_merged():
    # All of 28 x 28 and 16 + 16 tokens. Merging 8 with 10 frames pads the row of 8 by two frames,
    # 10 with 16 would pad six, 8 with 16 eight.
    rows = needs(*([frames, 28, 28, 16, 16] for frames in (16, 8, 10)))
    assert [shape.num_frames for shape in choose_shapes(rows, 2)] == [10, 16]


def test_what_many_rows_need_outweighs_what_one_does():
    # Merging 8 with 10 would pad a hundred rows by two frames; 10 with 16 pads one row by six.
    frames = [8] * 100 + [10, 16]
    rows = needs(*([count, 28, 28, 16, 16] for count in frames))
    assert [shape.num_frames for shape in choose_shapes(rows, 2)] == [8, 16]


def test_every_shape_has_the_rows_of_a_batch_where_there_are_as_many():
    # As many short rows as fill batches, and a long one that would wait for its own kind.
    frames = [8] * 400 + [10] * 300 + [12] * 200 + [128]
    rows = needs(*([count, 28, 28, 16, 16] for count in frames))
    shapes = choose_shapes(rows, 4, batch_size=4)
    assert [shape.num_frames for shape in shapes] == [8, 10, 128]
    assert np.bincount(assign(rows, shapes)).tolist() == [400, 300, 201]
    assert [shape.num_frames for shape in choose_shapes(rows, 4)] == [8, 10, 12, 128]
    # Fewer rows than a batch has: one shape.
    assert len(choose_shapes(rows[-3:], 4, batch_size=4)) == 1


def test_too_few_rows_are_merged_again_and_again():
    # Two rows of each. With batches of three, 4 goes with 20, and 24 with both.
    rows = needs(*([count, 28, 28, 16, 16] for count in (4, 4, 20, 20, 24, 24)))
    assert [s.num_frames for s in choose_shapes(rows, 3, batch_size=2)] == [4, 20, 24]
    assert [s.num_frames for s in choose_shapes(rows, 3, batch_size=3)] == [24]


def test_a_row_goes_to_the_cheapest_shape_that_holds_it():
    shapes = [BatchShape(32, 28, 28, 16, 16), BatchShape(4, 560, 560, 16, 16)]
    rows = needs([2, 28, 28, 16, 16], [4, 56, 28, 16, 16], [6, 28, 28, 1, 1])
    assert assign(rows, shapes).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="row 1 fits in no shape.*num_frames=6"):
        assign(needs([2, 28, 28, 1, 1], [6, 56, 28, 1, 1]), shapes)


def test_nothing_to_divide_is_an_error():
    with pytest.raises(ValueError, match="0 rows"):
        choose_shapes(np.zeros((0, 5)), 2)
    with pytest.raises(ValueError, match="among 0 shapes"):
        choose_shapes(needs([2, 28, 28, 1, 1]), 0)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 64).map(lambda n: 2 * n),
            st.integers(1, 20).map(lambda n: 28 * n),
            st.integers(1, 20).map(lambda n: 28 * n),
            st.integers(1, 900),
            st.integers(1, 100),
        ),
        min_size=1,
        max_size=30,
    ),
    most=st.integers(1, 5),
)
def test_every_row_fits_and_the_order_of_rows_changes_nothing(rows, most):
    rows = np.array(rows)
    shapes = choose_shapes(rows, most)
    assert len(shapes) <= most
    assert np.all(rows <= np.array(shapes)[assign(rows, shapes)])
    assert choose_shapes(rows[::-1], most) == shapes
    assert padding(rows, shapes) <= padding(rows, choose_shapes(rows, 1)) + 1e-12


def test_many_different_rows_take_no_time_and_keep_their_largest_needs():
    rng = np.random.default_rng(0)
    rows = np.stack(
        [
            2 * rng.integers(1, 65, 50_000),
            28 * rng.integers(4, 20, 50_000),
            28 * rng.integers(4, 20, 50_000),
            rng.integers(20, 900, 50_000),
            rng.integers(5, 100, 50_000),
        ],
        axis=1,
    )
    shapes = choose_shapes(rows, 4)
    assert len(shapes) == 4
    # The rows are grouped coarsely before; still no shape is larger than a row needs it.
    assert np.array(shapes).max(axis=0)[:3].tolist() == rows.max(axis=0)[:3].tolist()
    assert padding(rows, shapes) < 0.9 * padding(rows, choose_shapes(rows, 1))
