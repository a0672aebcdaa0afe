"""Prompt expansion against plain-Python statements of every convention's rule."""

import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.models.position_convention import Convention
from resadapt_jax.models.prompt_layout import expand_prompt

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
    return ids, positions, 1 + max(max(p) for p in positions)


def stated(parts, seconds, tokens_per_second, convention, native=None):
    """Positions by the other conventions' rules, as `position_convention.Convention` words them.

    Adjacent grids are pairs of one video where the convention shares an anchor.
    """
    positions, current, entry, k = [], 0, 0, 0
    while k < len(parts):
        if isinstance(parts[k], int):
            positions.append((current,) * 3)
            current, k = current + 1, k + 1
            continue
        before, largest = Fraction(0), current - 1
        while k < len(parts) and not isinstance(parts[k], int):
            t, h, w = parts[k][0], parts[k][1] // 2, parts[k][2] // 2
            s = Fraction(str(seconds[entry]))
            for n in range(t):
                if convention is Convention.HF_4_57:
                    time = int(s) * tokens_per_second * n
                elif convention is Convention.VLLM:
                    time = math.floor(s * tokens_per_second * n)
                else:
                    time = math.floor(before * tokens_per_second)
                for i, j in itertools.product(range(h), range(w)):
                    if convention is Convention.RESADAPT_NATIVE:
                        i, j = i * (native[entry][1] // 2) // h, j * (native[entry][2] // 2) // w
                    positions.append((current + time, current + i, current + j))
                largest = max(largest, current + time)
            rows, cols = (h, w) if native is None else (n // 2 for n in native[entry][1:])
            largest = max(largest, current + rows - 1, current + cols - 1)
            before, entry, k = before + s, entry + 1, k + 1
            if not convention.shares_anchor:
                break
        current = largest + 1
    return positions, 1 + max(max(p) for p in positions)


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
    "merged, fps, advances",
    # After a video of t x h x w tokens. transformers 5 takes max(h, w); the others the last time
    # ⌊(t - 1) · 2 · 2/fps⌋ + 1 where that is more. 2/1.4 = 1.43 s is cut to 1 by 4.57: 30 + 1;
    # vLLM has ⌊15 · 2.857⌋ + 1 = 43. 2/4 = .5 s is cut to 0: 18 is the width.
    [
        ((16, 12, 12), 2.0, (31, 12, 31)),
        ((16, 12, 12), 1.4, (31, 12, 43)),
        ((32, 10, 18), 4.0, (18, 18, 32)),
        ((64, 4, 8), 1.0, (253, 8, 253)),
        ((8, 26, 26), 1.0, (29, 26, 29)),
    ],
)
def test_text_resumes_as_the_engine_has_it(merged, fps, advances):
    t, h, w = merged
    for convention, advance in zip(
        (Convention.HF_4_57, Convention.HF_5, Convention.VLLM), advances, strict=True
    ):
        parts = [TEXT, (t, 2 * h, 2 * w), TEXT]
        layout = expand(parts, [2 / fps], t * h * w + 2, convention=convention)
        assert layout.position_ids[:, -1].tolist() == [1 + advance] * 3
        # transformers 5 generates behind the largest position of all, which may be a video's time.
        last_time = int((t - 1) * 2 * 2 / fps)
        behind = 2 + max(advance, last_time if convention is Convention.HF_5 else 0)
        assert layout.next_position == behind


@pytest.mark.parametrize("convention", [c for c in Convention if c is not Convention.HF_5])
@pytest.mark.parametrize("seed", range(3))
def test_follows_the_stated_rule(convention, seed):
    rng = np.random.default_rng(seed)
    parts, seconds, native = [1], [], []
    for _ in range(5):
        t = 1 if convention.shares_anchor else int(rng.integers(1, 6))
        grid = (t, int(2 * rng.integers(1, 6)), int(2 * rng.integers(1, 6)))
        parts += [*rng.integers(2, 50, int(rng.integers(0, 3))).tolist(), grid]
        seconds.append(round(float(rng.uniform(0.2, 2.5)), 2))
        native.append((1, 2 * int(rng.integers(5, 9)), 2 * int(rng.integers(5, 9))))
    parts += [3, 4]
    scaled = native if convention is Convention.RESADAPT_NATIVE else None
    positions, following = stated(parts, seconds, 2, convention, scaled)
    # The clock that the pairs share: each begins where the one before it ends.
    starts = np.round(1000 * (100 + np.cumsum(seconds) - seconds)).astype(np.int32)
    layout = expand(
        parts,
        seconds,
        600,
        convention=convention,
        entry_milliseconds=jnp.asarray(starts),
        native_thw=None if scaled is None else jnp.array(native),
    )
    np.testing.assert_array_equal(layout.position_ids[:, : len(positions)].T, positions)
    assert layout.length == len(positions) and layout.next_position == following


def test_pairs_that_share_an_anchor_by_hand():
    # Pairs of 1 x 2 and 2 x 1 tokens in one wrapper, 1.5 s apart at 2 positions a second.
    parts = [10, (1, 2, 4), (1, 4, 2), 11]
    times = jnp.array([500, 2000])
    shared = expand(parts, [1.5, 1.5], 6, convention=Convention.RESADAPT, entry_milliseconds=times)
    assert shared.position_ids.tolist() == [
        [0, 1, 1, 4, 4, 5],
        [0, 1, 1, 1, 2, 5],
        [0, 1, 2, 1, 1, 5],
    ]
    # Over a native grid of 4 x 4 the two columns become 0 and 2, the two rows likewise.
    native = expand(
        parts,
        [1.5, 1.5],
        6,
        convention=Convention.RESADAPT_NATIVE,
        entry_milliseconds=times,
        native_thw=jnp.array([[1, 8, 8], [1, 8, 8]]),
    )
    assert native.position_ids.tolist() == [
        [0, 1, 1, 4, 4, 5],
        [0, 1, 1, 1, 3, 5],
        [0, 1, 3, 1, 1, 5],
    ]


def test_time_runs_without_rounding_down():
    # Pairs of 2/3 s at 2 positions a second: 0, 4/3, 8/3, 4; float32 sums give 3.9999998. The
    # text between the fourth and the fifth pair makes the latter the first of another video.
    parts = [*[(1, 2, 2)] * 4, TEXT, (1, 2, 2)]
    milliseconds = jnp.array([0, 667, 1333, 2000, 9000])
    convention = Convention.RESADAPT
    layout = expand(parts, [2 / 3] * 5, 6, convention=convention, entry_milliseconds=milliseconds)
    assert layout.position_ids[0].tolist() == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize("convention", Convention)
def test_numpy_makes_the_same_layout_on_the_host(convention):
    arrays = (
        np.array([10, PAD, PAD, 11, PAD, 12, 0], np.int32),
        np.int32(6),
        np.array([-1, 0, 1, -1, 2, -1, -1], np.int32),
        np.array([[1, 4, 6], [1, 2, 4], [3, 4, 2]], np.int32),
        np.array([1.4, 1.4, 0.7], np.float32),
    )
    kwargs = {
        "entry_milliseconds": np.array([0, 1400, 2800], np.int32),
        "native_thw": np.array([[1, 8, 8]] * 3, np.int32),
    }
    on_host = expand_prompt(*arrays, capacity=20, convention=convention, **kwargs)
    on_device = expand_prompt(
        *map(jnp.asarray, arrays), capacity=20, convention=convention, **kwargs
    )
    for ours, expected in zip(*map(jax.tree.leaves, (on_host, on_device)), strict=True):
        assert isinstance(ours, (np.ndarray, np.generic)) and isinstance(expected, jax.Array)
        np.testing.assert_array_equal(ours, expected)
        assert ours.dtype == expected.dtype


def test_a_convention_asks_for_what_it_needs():
    parts = [10, (1, 2, 2), 11]
    with pytest.raises(ValueError, match="resadapt needs entry_milliseconds"):
        expand(parts, [1.0], 5, convention=Convention.RESADAPT)
    with pytest.raises(ValueError, match="resadapt-native needs native_thw"):
        expand(
            parts,
            [1.0],
            5,
            convention=Convention.RESADAPT_NATIVE,
            entry_milliseconds=jnp.zeros(1, jnp.int32),
        )


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
