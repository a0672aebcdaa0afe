"""The packed layout against plain-Python statements of HF's rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.errors import UserError
from resadapt_jax.models.vision_plan import check_fits, interpolation_taps, plan_vision


def reference_rows(grids, merge=2):
    """HF's patch order, one (entry, time, row, col) per patch."""
    return [
        (entry, time, 2 * block_row + i, 2 * block_col + j)
        for entry, (t, h, w) in enumerate(grids)
        for time in range(t)
        for block_row in range(h // merge)
        for block_col in range(w // merge)
        for i in range(merge)
        for j in range(merge)
    ]


def reference_windows(grids, side=4):
    """Merged tokens in window order and the size of every window, as HF's get_window_index."""
    order, sizes, first = [], [], 0
    for t, h, w in grids:
        rows, cols = h // 2, w // 2
        for time in range(t):
            for top in range(0, rows, side):
                for left in range(0, cols, side):
                    window = [
                        first + time * rows * cols + row * cols + col
                        for row in range(top, min(top + side, rows))
                        for col in range(left, min(left + side, cols))
                    ]
                    order += window
                    sizes.append(len(window))
        first += t * rows * cols
    return order, sizes


def random_grids(rng, entries):
    t = rng.integers(1, 4, entries)
    return np.stack([t, 2 * rng.integers(1, 10, entries), 2 * rng.integers(1, 10, entries)], 1)


@pytest.fixture(scope="module")
def jitted():
    return jax.jit(lambda grids: plan_vision(grids, capacity=1000))


@pytest.mark.parametrize("seed", range(6))
def test_tables_follow_hf(jitted, seed):
    grids = random_grids(np.random.default_rng(seed), 4)
    plan = jitted(jnp.asarray(grids))
    rows = np.array(reference_rows(grids))
    n = len(rows)
    for column, name in enumerate(["patch_entry", "patch_time", "patch_row", "patch_col"]):
        np.testing.assert_array_equal(getattr(plan, name)[:n], rows[:, column], name)
    for column, name in enumerate(["token_entry", "token_time", "token_row", "token_col"]):
        scale = 1 if column < 2 else 2
        np.testing.assert_array_equal(
            getattr(plan, name)[: n // 4], rows[::4, column] // scale, name
        )
    assert plan.num_tokens == n // 4
    np.testing.assert_array_equal(plan.token_count, grids.prod(axis=1) // 4)
    assert not plan.overflow


@pytest.mark.parametrize("seed", range(6))
def test_windows_and_segments_follow_hf(jitted, seed):
    grids = random_grids(np.random.default_rng(seed), 4)
    plan = jitted(jnp.asarray(grids))
    order, sizes = reference_windows(grids)
    np.testing.assert_array_equal(plan.window_order[: len(order)], order)
    np.testing.assert_array_equal(
        np.asarray(plan.window_rank)[np.asarray(plan.window_order)], np.arange(1000)
    )
    ids = np.asarray(plan.window_ids).reshape(1000, 4)[np.asarray(plan.window_order)]
    expected = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    np.testing.assert_array_equal(ids[: len(order)], expected[:, None].repeat(4, axis=1))
    frames = np.repeat(grids[:, 1] * grids[:, 2], grids[:, 0])
    segments = np.repeat(np.arange(1, len(frames) + 1), frames)
    np.testing.assert_array_equal(plan.segment_ids[: len(segments)], segments)


def test_sides_of_whole_windows_have_no_empty_window():
    # 8 x 16 patches are exactly 1 x 2 windows; HF pads such sides by a whole window of nothing.
    plan = plan_vision(jnp.array([[1, 8, 16]]), capacity=32)
    assert np.unique(plan.window_ids).tolist() == [1, 2]


def test_left_over_windows_by_hand():
    # 2 x 10 patches are 1 x 5 merged tokens: a window of 4 columns and one of 1 column.
    # The second entry, 4 x 2 patches, is 2 x 1 merged tokens in one window.
    plan = plan_vision(jnp.array([[1, 2, 10], [1, 4, 2]]), capacity=8)
    assert plan.window_ids[::4].tolist() == [1, 1, 1, 1, 2, 3, 3, 0]
    assert plan.segment_ids[::4].tolist() == [1, 1, 1, 1, 1, 2, 2, 0]


def test_padding_and_absent_entries():
    grids = jnp.array([[0, 0, 0], [1, 2, 4], [0, 0, 0], [2, 2, 2], [0, 0, 0]])
    plan = plan_vision(grids, capacity=6)
    # 2 tokens of entry 1, then 1 token for each temporal patch of entry 3, then 2 rows of padding.
    assert plan.token_entry.tolist() == [1, 1, 3, 3, -1, -1]
    assert plan.token_count.tolist() == [0, 2, 0, 2, 0]
    assert plan.segment_ids[::4].tolist() == [1, 1, 2, 3, 0, 0]
    for name in ["patch_time", "patch_row", "patch_col", "segment_ids", "window_ids"]:
        assert not np.any(getattr(plan, name)[16:]), name


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_a_grid_that_does_not_divide_is_refused(array):
    grids = array([[1, 4, 4], [2, 4, 5]])
    with pytest.raises(UserError, match="entry 1 has a grid of 4 x 5 patches, .* multiples of 2"):
        plan_vision(grids, capacity=40)


def test_nothing_at_all():
    plan = plan_vision(jnp.zeros((3, 3), jnp.int32), capacity=4)
    assert plan.num_tokens == 0 and not plan.overflow
    assert plan.patch_entry.tolist() == [-1] * 16


def test_overflow_is_reported_and_raised():
    grids = jnp.array([[1, 4, 4], [1, 4, 6]])  # 4 + 6 tokens
    enough = plan_vision(grids, capacity=10)
    check_fits(enough)
    assert not enough.overflow
    plan = plan_vision(grids, capacity=9)
    assert plan.overflow
    # The entry that does not fit is missing as a whole.
    assert plan.token_entry.tolist() == [0] * 4 + [-1] * 5
    with pytest.raises(ValueError, match="ask for 10 tokens.*holds 9"):
        check_fits(plan)


@pytest.mark.parametrize("window_patches", [8, None])
def test_numpy_makes_the_same_tables_on_the_host(window_patches):
    grids = np.concatenate([random_grids(np.random.default_rng(7), 4), [[0, 0, 0], [5, 40, 40]]])
    on_host = plan_vision(grids, capacity=600, window_patches=window_patches)
    on_device = plan_vision(jnp.asarray(grids), capacity=600, window_patches=window_patches)
    assert on_host.overflow  # the last entry is left out by both
    pairs = [*zip(*map(jax.tree.leaves, (on_host, on_device)), strict=True)]
    pairs += zip(interpolation_taps(on_host, 6), interpolation_taps(on_device, 6), strict=True)
    for ours, expected in pairs:
        assert isinstance(ours, (np.ndarray, np.generic)) and isinstance(expected, jax.Array)
        np.testing.assert_array_equal(ours, expected)
        assert ours.dtype == expected.dtype


def test_one_compilation_serves_every_grid_and_vmap_agrees():
    traces = []

    @jax.jit
    def plan(grids):
        traces.append(1)
        return jax.vmap(lambda g: plan_vision(g, capacity=1000))(grids)

    for seed in range(3):
        rng = np.random.default_rng(seed)
        batch = jnp.asarray(np.stack([random_grids(rng, 3) for _ in range(2)]))
        batched = plan(batch)
        for i in range(2):
            single = plan_vision(batch[i], capacity=1000)
            for ours, expected in zip(*map(jax.tree.leaves, (batched, single)), strict=True):
                np.testing.assert_array_equal(ours[i], expected)
    assert len(traces) == 1


def test_a_tower_without_windows_has_no_window_tables(jitted):
    grids = jnp.asarray(random_grids(np.random.default_rng(0), 4))
    plan = plan_vision(grids, capacity=1000, window_patches=None)
    assert plan.window_ids is plan.window_order is plan.window_rank is plan.window_patches is None
    names = ["patch_entry", "patch_row", "patch_col", "segment_ids", "token_entry", "num_tokens"]
    for name in names:
        np.testing.assert_array_equal(getattr(plan, name), getattr(jitted(grids), name), name)
    batched = jax.vmap(lambda g: plan_vision(g, capacity=1000, window_patches=None))(grids[None])
    assert batched.window_order is None


def stretched(table, rows, cols):
    """A table's values on a grid whose corners are the table's, one axis after the other."""
    at = np.linspace(0, len(table) - 1, rows), np.linspace(0, len(table) - 1, cols)
    down = np.stack([np.interp(at[0], np.arange(len(table)), column) for column in table.T], 1)
    return np.stack([np.interp(at[1], np.arange(len(table)), row) for row in down])


@pytest.mark.parametrize("side", [1, 6, 48])
def test_interpolation_stretches_the_table_over_every_frame(side):
    # Smaller than, equal to and larger than 6; 2 lies on the table's corners only.
    grids = np.array([[2, 4, 18], [1, 6, 2], [1, 10, 8]])
    plan = plan_vision(jnp.asarray(grids), capacity=70, window_patches=None)
    taps, weights = interpolation_taps(plan, side)
    table = np.random.default_rng(0).normal(size=(side, side))
    values = (table.reshape(-1)[np.asarray(taps)] * weights).sum(axis=1)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1.0, rtol=1e-6)
    maps = [stretched(table, rows, cols) for _, rows, cols in grids]
    entry, row, col = (np.asarray(x) for x in (plan.patch_entry, plan.patch_row, plan.patch_col))
    for patch in range(int(plan.num_tokens) * 4):
        expected = maps[entry[patch]][row[patch], col[patch]]
        np.testing.assert_allclose(values[patch], expected, atol=1e-5)


def test_interpolation_by_hand_and_from_numpy():
    # 4 rows over a table of 3: rows lie at 0, 2/3, 4/3, 2; 2 columns at 0 and 2.
    plan = plan_vision(jnp.array([[1, 4, 2]]), capacity=3, window_patches=None)
    on_host = jax.tree.map(np.asarray, plan)
    for tables in (plan, on_host):
        taps, weights = interpolation_taps(tables, 3)
        # Patch 3 is row 1, column 1; its column is the last, where both taps are the same.
        assert (tables.patch_row[3], tables.patch_col[3]) == (1, 1)
        assert taps[3].tolist() == [2, 2, 5, 5]
        np.testing.assert_allclose(weights[3], [1 / 3, 0, 2 / 3, 0], atol=1e-6)
        # Patch 4 is row 2, column 0: two thirds of table row 1 and a third of row 2.
        assert taps[4].tolist() == [3, 4, 6, 7]
        np.testing.assert_allclose(weights[4], [2 / 3, 0, 1 / 3, 0], atol=1e-6)
        assert np.isfinite(weights).all()
