"""Prompt expansion against a plain-Python statement of transformers 5's get_rope_index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.models.prompt import expand_prompt

PAD, TEXT = 99, 7
COMPACT = 24


def reference(parts, seconds, tokens_per_second):
    """Ids and (time, row, col) positions of text ids and grids, read off HF's loop."""
    ids, positions, current, entry = [], [], 0, 0
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
            positions.append((current,) * 3)
            current += 1
            continue
        t, h, w = part[0], part[1] // 2, part[2] // 2
        interval = np.float32(tokens_per_second) * np.float32(seconds[entry])
        for k in range(t):
            for i in range(h):
                for j in range(w):
                    time = int(np.float32(k) * interval)
                    ids.append(PAD)
                    positions.append((current + time, current + i, current + j))
        current += max(h, w)
        entry += 1
    return ids, positions, current


def expand(parts, seconds, capacity, **kwargs):
    entry, index = 0, []
    for part in parts:
        index.append(-1 if isinstance(part, int) else entry)
        entry += not isinstance(part, int)
    ids = [part if isinstance(part, int) else PAD for part in parts]
    grids = [part for part in parts if not isinstance(part, int)]
    padding = COMPACT - len(ids)
    return expand_prompt(
        jnp.array(ids + [TEXT] * padding),
        jnp.int32(len(ids)),
        jnp.array(index + [-1] * padding),
        jnp.array(grids, jnp.int32).reshape(-1, 3),
        jnp.array(seconds, jnp.float32),
        capacity=capacity,
        **kwargs,
    )


@pytest.mark.parametrize("tokens_per_second", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_follows_get_rope_index(seed, tokens_per_second):
    rng = np.random.default_rng(seed)
    parts, seconds = [1], []
    for _ in range(4):
        grid = (int(rng.integers(1, 6)), int(2 * rng.integers(1, 7)), int(2 * rng.integers(1, 7)))
        parts += [*rng.integers(2, 50, int(rng.integers(1, 4))).tolist(), grid]
        seconds.append(round(float(rng.uniform(0.2, 2.5)), 2))
    parts += [3, 4]
    ids, positions, following = reference(parts, seconds, tokens_per_second)
    layout = expand(parts, seconds, 800, tokens_per_second=tokens_per_second)
    n = len(ids)
    assert layout.length == n and not layout.overflow
    np.testing.assert_array_equal(layout.token_ids[:n], ids)
    np.testing.assert_array_equal(layout.position_ids[:, :n].T, positions)
    assert layout.next_position == following
    np.testing.assert_array_equal(layout.mask, np.arange(800) < n)
    visual = np.array(ids) == PAD
    np.testing.assert_array_equal(
        layout.visual_index[:n], np.where(visual, np.cumsum(visual) - 1, -1)
    )
    assert not layout.token_ids[n:].any() and not layout.position_ids[:, n:].any()
    assert (layout.visual_index[n:] == -1).all()


@pytest.mark.parametrize(
    "merged, fps, advance",
    # The column "5.23" of the worked table: max(h, w), whatever the time. 4.57 gives 31, 31, 18,
    # 253 and 29.
    [
        ((16, 12, 12), 2.0, 12),
        ((16, 12, 12), 1.4, 12),
        ((32, 10, 18), 4.0, 18),
        ((64, 4, 8), 1.0, 8),
        ((8, 26, 26), 1.0, 26),
    ],
)
def test_text_resumes_after_the_larger_side(merged, fps, advance):
    t, h, w = merged
    layout = expand([TEXT, (t, 2 * h, 2 * w), TEXT], [2 / fps], t * h * w + 2)
    assert layout.position_ids[:, -1].tolist() == [1 + advance] * 3
    assert layout.next_position == advance + 2


def test_time_is_scaled_then_floored():
    # 0.7 s per grid at 2 tokens per second: floor(1.4 k) = 0, 1, 2, 4. Truncating the seconds
    # first, as 4.57 does, would give 0, 0, 0, 0; rounding the product 0, 1, 3, 4.
    layout = expand([TEXT, (4, 2, 2), TEXT], [0.7], 6)
    assert layout.position_ids[0].tolist() == [0, 1, 2, 3, 5, 2]


def test_pairs_as_entries_by_hand():
    # Two pairs of 1 x 2 and 2 x 1 tokens, each between two text ids.
    layout = expand([10, (1, 2, 4), 11, 10, (1, 4, 2), 11], [1.0, 1.0], 10)
    assert layout.token_ids.tolist() == [10, PAD, PAD, 11, 10, PAD, PAD, 11, 0, 0]
    assert layout.visual_index.tolist() == [-1, 0, 1, -1, -1, 2, 3, -1, -1, -1]
    assert layout.position_ids.tolist() == [
        [0, 1, 1, 3, 4, 5, 5, 7, 0, 0],
        [0, 1, 1, 3, 4, 5, 6, 7, 0, 0],
        [0, 1, 2, 3, 4, 5, 5, 7, 0, 0],
    ]


def test_absent_entry_takes_no_position():
    layout = expand([10, (0, 0, 0), 11, (1, 2, 2), 12], [1.0, 1.0], 6)
    assert layout.token_ids.tolist() == [10, 11, PAD, 12, 0, 0]
    assert layout.position_ids[0].tolist() == [0, 1, 2, 3, 0, 0]
    assert layout.visual_index.tolist() == [-1, -1, 0, -1, -1, -1]


def test_overflow_is_reported():
    parts = [10, (1, 4, 4), 11]
    assert not expand(parts, [1.0], 6).overflow
    layout = expand(parts, [1.0], 5)
    assert layout.overflow and layout.length == 6


def expand_two(grids, seconds):
    return expand_prompt(
        jnp.array([10, PAD, 11, PAD, 12]),
        jnp.int32(5),
        jnp.array([-1, 0, -1, 1, -1]),
        grids,
        seconds,
        capacity=40,
    )


def test_one_compilation_and_vmap():
    traces = []

    def traced(grids, seconds):
        traces.append(1)
        return expand_two(grids, seconds)

    batched = jax.jit(jax.vmap(traced))
    for sizes in [(2, 4), (6, 2), (4, 8)]:
        grids = jnp.array([[[1, sizes[0], 4], [2, 2, sizes[1]]], [[0, 0, 0], [1, *sizes]]])
        seconds = jnp.array([[0.5, 1.0], [1.0, 2.0]])
        layout = batched(grids, seconds)
        for i in range(2):
            single = expand_two(grids[i], seconds[i])
            for ours, expected in zip(*map(jax.tree.leaves, (layout, single)), strict=True):
                np.testing.assert_array_equal(ours[i], expected)
    assert len(traces) == 1
