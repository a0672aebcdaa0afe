"""Scales to sizes: the worked values, and the traced table against plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resadapt_jax.operators import (
    MAX_SCALE,
    NativeSizes,
    SizeLimits,
    check_scales,
    scaled_size,
    sizes_from_scales,
    smart_resize,
)
from resadapt_jax.operators.sizes import size_ladder, size_table

QWEN = SizeLimits()
QWEN3 = SizeLimits(patch_size=16, min_pixels=3136, max_pixels=768 * 32 * 32)
TOY = SizeLimits(min_pixels=28 * 28)


@pytest.mark.parametrize(
    "native, scale, limits, expected",
    [
        # ⌊420·.2⌋ = 84 = 3·28 and ⌊560·.2⌋ = 112 = 4·28: already legal.
        ((420, 560), 0.2, QWEN, (84, 112)),
        # 147/28 = 5.25 -> 5, 196/28 = 7.
        ((420, 560), 0.35, QWEN, (140, 196)),
        # 210/28 = 7.5 rounds to the even 8 (half up would agree), 280/28 = 10.
        ((420, 560), 0.5, QWEN, (224, 280)),
        ((420, 560), 1.0, QWEN, (420, 560)),
        ((420, 560), 1.4, QWEN, (588, 784)),
        # 756 x 1008 exceeds 768 tokens: β = √(762048/602112) = 1.125, 756/β = 672, 1008/β = 896.
        ((420, 560), 1.8, QWEN, (672, 896)),
        ((616, 1092), 0.2, QWEN, (112, 224)),
        ((616, 1092), 0.35, QWEN, (224, 392)),
        ((616, 1092), 0.5, QWEN, (308, 560)),
        # 22 · 39 = 858 tokens exceed 768; floored to 20 · 36 = 720.
        ((616, 1092), 1.0, QWEN, (560, 1008)),
        ((616, 1092), 1.4, QWEN, (560, 1008)),
        ((640, 1120), 0.2, QWEN3, (128, 224)),
        ((640, 1120), 0.5, QWEN3, (320, 576)),
        ((640, 1120), 1.0, QWEN3, (640, 1120)),
        ((640, 1120), 1.8, QWEN3, (640, 1152)),
        # 70/28 = 2.5 -> 2 (half up would give 84), 126/28 = 4.5 -> 4 (half up: 140).
        ((70, 126), 1.0, QWEN, (56, 112)),
        # Never below one patch: 14 x 14 rounds half to even to 0 x 0, and the minimum takes over.
        ((112, 112), 0.01, TOY, (28, 28)),
        ((112, 112), 0.01, QWEN, (56, 56)),
        # 14 x 100 -> 0 · 4 tokens; β = √(3136/1400) = 1.497; ⌈20.95/28⌉ = 1, ⌈149.7/28⌉ = 6.
        ((100, 1000), 0.1, QWEN, (28, 168)),
    ],
)
def test_worked_sizes(native, scale, limits, expected):
    assert scaled_size(*native, scale, limits) == expected


def test_limits_are_checked():
    with pytest.raises(ValueError, match="min_pixels"):
        SizeLimits(min_pixels=1000, max_pixels=900)
    with pytest.raises(ValueError, match="max_pixels"):
        SizeLimits(min_pixels=100, max_pixels=700)
    with pytest.raises(ValueError, match="aspect ratio"):
        smart_resize(10, 2010, QWEN)
    with pytest.raises(ValueError, match="no legal size"):
        sizes_from_scales(jnp.ones(2), NativeSizes.alike(0, 100, QWEN))


NATIVES = [
    ((420, 560), QWEN),  # 4:3 meets float64 ties wherever the cap binds
    ((616, 1092), QWEN),
    ((720, 1280), QWEN),
    ((1280, 720), QWEN),
    ((1080, 1920), QWEN),
    ((2160, 3840), QWEN),
    ((112, 112), TOY),
    ((56, 56), TOY),
    ((1, 1), TOY),
    ((100, 1000), QWEN),
    ((333, 517), QWEN),
    ((640, 1120), QWEN3),
]
SIZES = jax.jit(sizes_from_scales)


def adversarial_scales(native, rng, count):
    """Random float32 scales, and those on either side of every step of ⌊H·s⌋ and ⌊W·s⌋."""
    edges = [np.arange(1, min(int(2 * side), 1500)) / side for side in native]
    edges = np.concatenate(edges).astype(np.float32)
    around = [np.nextafter(edges, np.float32(towards)) for towards in (0, 9)]
    random = rng.uniform(0, 2.2, max(count - 3 * len(edges), count // 3)).astype(np.float32)
    special = np.float32([0, 1e-30, 1e-6, 0.2, 1, 1.8, 2, MAX_SCALE])
    return np.minimum(np.concatenate([edges, *around, random, special]), np.float32(MAX_SCALE))


def test_traced_sizes_equal_python_over_many_scales():
    rng = np.random.default_rng(0)
    compared = 0
    for native, limits in NATIVES:
        scales = adversarial_scales(native, rng, 9000)
        expected = np.array([scaled_size(*native, float(s), limits) for s in scales])
        heights, widths = SIZES(scales, NativeSizes.alike(*native, limits))
        np.testing.assert_array_equal(np.stack([heights, widths], -1), expected)
        compared += len(scales)
    assert compared > 100_000


def test_a_million_random_sizes_and_scales_equal_python():
    rng = np.random.default_rng(1)
    limits, count, scales_each = SizeLimits(), 250, 4000
    natives = np.exp(rng.uniform(np.log(20), np.log(1500), (count, 2))).astype(int)
    scales = rng.uniform(0, 2, (count, scales_each)).astype(np.float32)
    sizes = tuple((int(height), int(width)) for height, width in natives)
    native = NativeSizes(index=np.arange(count)[:, None], sizes=sizes, limits=limits)
    heights, widths = SIZES(scales, native)
    for row, size in enumerate(sizes):
        want = [scaled_size(*size, scale, limits) for scale in scales[row].tolist()]
        np.testing.assert_array_equal(np.stack([heights[row], widths[row]], 1), want)


def test_float32_arithmetic_would_not_do():
    # What the table saves us from: in float32, ⌊H·s⌋ already differs just below a step.
    native = (420, 560)
    scales = adversarial_scales(native, np.random.default_rng(0), 9000)
    rounded = np.floor(np.float32(420) * scales)
    exact = np.floor(420 * scales.astype(np.float64))
    assert np.any(rounded != exact)


def test_equal_sizes_need_float64_ties():
    # At s = 1.8 of a 4:3 frame the exact quotient is the integer 32; the scale nearest to it in
    # float32 is lower, and 755 x 1007 is no longer 4:3.
    assert scaled_size(420, 560, float(np.float32(1.8)), QWEN) == (644, 896)
    heights, widths = SIZES(np.float32([1.8]), NativeSizes.alike(420, 560, QWEN))
    assert (int(heights[0]), int(widths[0])) == (644, 896)


def test_sizes_keep_leading_axes_and_compile_once():
    count = []

    @jax.jit
    def sizes(scales):
        count.append(1)
        return sizes_from_scales(scales, NativeSizes.alike(420, 560, QWEN))

    scales = np.random.default_rng(1).uniform(0.2, 1.8, (2, 3, 4)).astype(np.float32)
    heights, widths = sizes(scales)
    assert heights.shape == widths.shape == (2, 3, 4)
    assert heights.dtype == jnp.int32
    eager = sizes_from_scales(scales, NativeSizes.alike(420, 560, QWEN))
    np.testing.assert_array_equal(np.stack(eager), np.stack([heights, widths]))
    sizes(scales / 2)
    assert len(count) == 1


def test_scales_above_the_maximum_count_as_the_maximum():
    heights, widths = sizes_from_scales(jnp.float32([100.0]), NativeSizes.alike(112, 112, TOY))
    assert (int(heights[0]), int(widths[0])) == scaled_size(112, 112, MAX_SCALE, TOY) == (448, 448)


def test_units_of_several_native_sizes():
    sizes = ((420, 560), (616, 1092), (112, 112))
    native = NativeSizes(index=jnp.array([[2, 0, 1], [1, 1, 0]]), sizes=sizes, limits=QWEN)
    scales = np.float32([[0.5, 0.5, 0.5], [0.2, 1.0, 1.8]])
    heights, widths = SIZES(scales, native)
    # 112 x 112 at .5 is 56 x 56; the others as in test_worked_sizes (1.8 as float32 has it).
    assert heights.tolist() == [[56, 224, 308], [112, 560, 644]]
    assert widths.tolist() == [[56, 280, 560], [224, 1008, 896]]
    assert native.heights.tolist() == [[112, 420, 616], [616, 616, 420]]
    assert native.widths.tolist() == [[112, 560, 1092], [1092, 1092, 560]]
    # 4 x 4, 15 x 20, and 22 x 39 = 858 capped to 20 x 36.
    assert native.tokens.tolist() == [[16, 300, 720], [720, 720, 300]]


@pytest.mark.parametrize("native, limits", NATIVES)
def test_ladder_is_a_monotone_part_of_the_table(native, limits):
    table, ladder = size_table(*native, limits), size_ladder(*native, limits)
    tokens = ladder.heights * ladder.widths
    assert np.all(np.diff(tokens) > 0) or len(tokens) == 1
    assert np.all(np.diff(ladder.heights) >= 0) and np.all(np.diff(ladder.widths) >= 0)
    steps = set(zip(*(column.tolist() for column in table), strict=True))
    assert set(zip(*(column.tolist() for column in ladder), strict=True)) <= steps
    # The ladder's first step is the smallest size, its last has the most tokens of all.
    assert tokens[0] == (table.heights * table.widths)[0]
    assert np.all(np.diff(table.thresholds) > 0) and table.thresholds[0] == 0


def test_check_scales_refuses_what_the_table_cannot_mean():
    check_scales(np.float32([0.2, 1.8]), 2)
    with pytest.raises(ValueError, match="3 units need 3 scales"):
        check_scales(np.float32([0.2, 1.8]), 3)
    with pytest.raises(ValueError, match="3 units need 3 scales"):
        check_scales(np.ones((1, 3), np.float32), 3)
    for bad in (np.nan, np.inf, -0.1, MAX_SCALE + 1):
        with pytest.raises(ValueError, match="finite"):
            check_scales(np.float32([1, bad]), 2)
