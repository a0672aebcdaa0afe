"""Every backend against the float64 oracle: one suite, kernels in their interpreters."""

import numpy as np
import pytest
from resize_parts import (
    CANVAS,
    CANVAS_SIZES,
    IMPLEMENTATIONS,
    LEVELS,
    SOURCES,
    cropped,
    expected,
    picture,
    poisoned,
    run,
    spec_for,
)

# Largest and root mean square errors in grey levels.
REFERENCE = {"largest": 0.02, "rms": 0.004}
HIGH = {"largest": 0.01, "rms": 0.003}
NORMAL = {"largest": 0.3, "rms": 0.05}

every = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
# Each that reads the spec's precision at both, the others at the harder.
PRECISIONS = [
    (name, precision)
    for name in IMPLEMENTATIONS
    for precision in ("normal", "high")
    if precision == "high" or name not in ("reference", "pallas_tpu")
]
precisions = pytest.mark.parametrize(("implementation", "precision"), PRECISIONS)

# frames, their size, sizes of the units, and the spec: together all that a kernel may trip over.
CASES = {
    "odd count, up, down and both, an absent pair, padding": (
        (7, 45, 61),
        [28, 84, 0, 28],
        [56, 28, 0, 28],
        {"padding": 7},
    ),
    "patches of 16": ((4, 50, 37), [32, 96], [64, 32], {"patch_size": 16}),
    "a fifth of the size": ((2, 140, 280), [28], [56], {}),
    "an image, 1.8 times the size": ((1, 45, 31), [84], [56], {}),
    "bilinear, one block": ((2, 61, 45), [28], [28], {"filter": "bilinear"}),
    "lanczos": ((2, 61, 45), [28], [56], {"filter": "lanczos"}),
    "without antialias": ((2, 75, 40), [28], [56], {"antialias": False}),
    "bilinear without antialias": (
        (2, 40, 75),
        [56],
        [28],
        {"filter": "bilinear", "antialias": False},
    ),
    "one frame a unit, patches alone": (
        (2, 40, 52),
        [32, 16],
        [16, 48],
        {"patch_size": 16, "merge_size": 1, "temporal_patch_size": 1},
    ),
}

# Sizes are what half precision depends on: the other cases are run at precision "high" alone.
SIZES_ALONE = list(CASES)[:4]

# Of the tests that share a compilation.
SHAPE, SIZES = (4, 45, 61, 3), ([28, 56], [56, 28])


def check(got, want, *, largest, rms):
    error = got.astype(np.float64) - want
    assert np.abs(error).max() <= largest
    assert np.sqrt(np.mean(error**2)) <= rms


def tolerance(implementation, precision):
    return (
        REFERENCE if implementation == "reference" else {"normal": NORMAL, "high": HIGH}[precision]
    )


@pytest.mark.parametrize(
    ("implementation", "precision", "case"),
    [(*how, case) for how in PRECISIONS for case in CASES if "high" in how or case in SIZES_ALONE],
)
def test_equals_the_oracle(implementation, precision, case):
    shape, heights, widths, how = CASES[case]
    frames = picture(np.random.default_rng(0), *shape, 3)
    spec = spec_for(heights, widths, precision=precision, **LEVELS, **how)
    got = run(implementation, frames, heights, widths, spec)
    check(got, expected(frames, heights, widths, spec), **tolerance(implementation, precision))
    # The interpreters fill unwritten output with NaN, so zeros were written.
    rows = spec.capacity - how.get("padding", 0)
    np.testing.assert_array_equal(got[rows * spec.merge_size**2 :], 0)


@every
def test_rounding_is_of_the_last_value_alone(implementation):
    frames = picture(np.random.default_rng(1), 2, 45, 61, 3)
    spec = spec_for([28], [56], rounding="final", precision="high", **LEVELS)
    got = run(implementation, frames, [28], [56], spec)
    difference = np.abs(got - expected(frames, [28], [56], spec))
    # A value within float32 error of a half may round the other way.
    assert difference.max() <= 1.01 and (difference > 0.02).mean() < 1e-3
    assert got.min() >= -0.01 and got.max() <= 255.01


@precisions
def test_layouts_and_dtypes_of_frames_agree(implementation, precision):
    rng = np.random.default_rng(2)
    frames = picture(rng, *SHAPE)
    spec = spec_for(*SIZES, precision=precision, **LEVELS)
    want = run(implementation, frames, *SIZES, spec)
    first = run(implementation, frames.transpose(0, 3, 1, 2), *SIZES, spec)
    np.testing.assert_allclose(first, want, atol=1e-3)
    as_float = run(implementation, frames.astype(np.float32), *SIZES, spec)
    np.testing.assert_allclose(as_float, want, atol=1e-3)
    # Levels between the whole ones: what half precision keeps of them is the frames' own.
    between = (frames + rng.uniform(-0.5, 0.5, frames.shape)).astype(np.float32)
    got = run(implementation, between, *SIZES, spec)
    check(got, expected(between, *SIZES, spec), **tolerance(implementation, precision))


@every
def test_bfloat16_output_is_the_nearest(implementation):
    frames = picture(np.random.default_rng(3), 2, 45, 61, 3)
    spec = spec_for([28], [56], dtype="bfloat16", precision="high")
    got = run(implementation, frames, [28], [56], spec)
    assert got.dtype == spec.output_dtype
    want = expected(frames, [28], [56], spec)
    # Half a step of eight bits, and the error before it.
    assert (np.abs(got.astype(np.float64) - want) <= 2.0**-8 * np.abs(want) + 2e-3).all()


@every
@pytest.mark.parametrize("used", [0, 1])
def test_unused_frames_may_hold_anything(implementation, used):
    frames = picture(np.random.default_rng(4), *SHAPE).astype(np.float32)
    poisoned = frames.copy()
    poisoned[2 * (1 - used) :][:2] = np.nan
    sizes = [[side if n == used else 0 for n, side in enumerate(sides)] for sides in SIZES]
    spec = spec_for(*SIZES, precision="high", **LEVELS)
    got = run(implementation, poisoned, *sizes, spec)
    np.testing.assert_array_equal(got, run(implementation, frames, *sizes, spec))
    assert np.isfinite(got).all() and got.any()


@every
def test_what_does_not_fit_is_left_out_whole(implementation):
    frames = picture(np.random.default_rng(5), *SHAPE)
    spec = spec_for(*SIZES, precision="high", **LEVELS)
    want = run(implementation, frames, [28, 0], [56, 0], spec)
    # Twice the capacity's blocks in the second unit: it is missing, the first is not.
    np.testing.assert_array_equal(run(implementation, frames, [28, 56], [56, 56], spec), want)


@every
def test_a_flat_frame_stays_flat(implementation):
    frames = np.full(SHAPE, 201, np.uint8)
    spec = spec_for(*SIZES, precision="high", **LEVELS)
    np.testing.assert_allclose(run(implementation, frames, *SIZES, spec), 201, atol=0.01)


# --- frames of several sizes in one canvas --------------------------------------------------------

# Canvas, sources, sizes and the spec of what has another border or other frames.
SOURCE_CASES = {
    "of each size, up, down and both": (CANVAS, SOURCES, CANVAS_SIZES, {"padding": 2}),
    "without antialias": (
        (6, 60, 70, 3),
        ([59, 13, 60], [11, 70, 35]),
        ([28, 56, 28], [28, 28, 28]),
        {"antialias": False},
    ),
    "bilinear without antialias, one pixel": (
        (3, 60, 70, 3),
        ([45, 1, 7], [31, 1, 69]),
        ([32, 16, 48], [16, 16, 16]),
        {"filter": "bilinear", "antialias": False, "patch_size": 16, "merge_size": 1}
        | {"temporal_patch_size": 1},
    ),
    "lanczos, a fifth of the size": (
        (5, 150, 150, 3),
        ([141, 97, 15], [149, 15, 97]),
        ([28, 28, 28], [28, 28, 28]),
        {"filter": "lanczos"},
    ),
}


@pytest.mark.parametrize(
    ("implementation", "precision", "case"),
    [
        (*how, case)
        for how in PRECISIONS
        for case in SOURCE_CASES
        if "high" in how or "each" in case
    ],
)
def test_equals_the_oracle_on_cropped_frames(implementation, precision, case):
    canvas, sources, sizes, how = SOURCE_CASES[case]
    frames = picture(np.random.default_rng(0), *canvas)
    spec = spec_for(*sizes, precision=precision, **LEVELS, **how)
    got = run(implementation, frames, *sizes, spec, sources)
    want = expected(frames, *sizes, spec, sources)
    check(got, want, **tolerance(implementation, precision))


@every
def test_equals_the_op_on_cropped_frames(implementation):
    frames = picture(np.random.default_rng(1), *CANVAS)
    how = {"precision": "high", **LEVELS}
    spec = spec_for(*CANVAS_SIZES, **how)
    got = run(implementation, frames, *CANVAS_SIZES, spec, SOURCES)
    alone = [
        run(implementation, unit, [height], [width], spec_for([height], [width], **how))
        for unit, height, width in zip(cropped(frames, SOURCES, spec), *CANVAS_SIZES, strict=True)
    ]
    # Sums of float32 in another order.
    np.testing.assert_allclose(got, np.concatenate(alone), atol=1e-3)


@every
@pytest.mark.parametrize("channels", ["last", "first"])
def test_what_lies_beyond_a_source_may_be_anything(implementation, channels):
    frames = picture(np.random.default_rng(2), *CANVAS)
    spec = spec_for(*CANVAS_SIZES, precision="high", **LEVELS)
    clean, dirty = (poisoned(frames, SOURCES, spec, value) for value in (0.0, np.nan))
    if channels == "first":
        clean, dirty = (x.transpose(0, 3, 1, 2) for x in (clean, dirty))
    got = run(implementation, dirty, *CANVAS_SIZES, spec, SOURCES)
    np.testing.assert_array_equal(got, run(implementation, clean, *CANVAS_SIZES, spec, SOURCES))
    assert np.isfinite(got).all() and got.any()
