"""Every backend against the float64 oracle: one suite, kernels in their interpreters."""

import numpy as np
import pytest
from resize_parts import IMPLEMENTATIONS, LEVELS, expected, picture, run, spec_for

# Largest and root mean square errors in grey levels.
REFERENCE = {"largest": 0.02, "rms": 0.004}
HIGH = {"largest": 0.01, "rms": 0.003}
NORMAL = {"largest": 0.3, "rms": 0.05}

every = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
precisions = pytest.mark.parametrize("precision", ["normal", "high"])

# frames, their size, sizes of the units, and the spec: together all that a kernel may trip over.
CASES = {
    "odd count, up, down and both": ((5, 45, 61), [28, 84, 28], [56, 28, 28], {}),
    "patches of 16": ((4, 50, 37), [32, 96], [64, 32], {"patch_size": 16}),
    "a fifth of the size": ((2, 140, 280), [28], [56], {}),
    "1.8 times the size": ((2, 45, 31), [84], [56], {}),
    "one pair, one block": ((2, 33, 29), [28], [28], {}),
    "an image": ((1, 30, 47), [28], [56], {}),
    "bilinear": ((2, 61, 45), [28], [56], {"filter": "bilinear"}),
    "lanczos": ((2, 61, 45), [28], [56], {"filter": "lanczos"}),
    "without antialias": ((2, 75, 40), [28], [56], {"antialias": False}),
    "bilinear without antialias": (
        (2, 40, 75),
        [56],
        [28],
        {"filter": "bilinear", "antialias": False},
    ),
    "an absent pair": ((6, 40, 40), [28, 0, 56], [56, 0, 28], {}),
    "padding": ((2, 40, 40), [28], [56], {"padding": 7}),
    "one frame a unit, patches alone": (
        (2, 40, 52),
        [32, 16],
        [16, 48],
        {"patch_size": 16, "merge_size": 1, "temporal_patch_size": 1},
    ),
}


def check(got, want, *, largest, rms):
    error = got.astype(np.float64) - want
    assert np.abs(error).max() <= largest
    assert np.sqrt(np.mean(error**2)) <= rms


def tolerance(implementation, precision):
    return (
        REFERENCE if implementation == "reference" else {"normal": NORMAL, "high": HIGH}[precision]
    )


@every
@precisions
@pytest.mark.parametrize("case", CASES)
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


@every
@precisions
def test_layouts_and_dtypes_of_frames_agree(implementation, precision):
    rng = np.random.default_rng(2)
    frames = picture(rng, 4, 45, 61, 3)
    spec = spec_for([28, 56], [56, 28], precision=precision, **LEVELS)
    want = run(implementation, frames, [28, 56], [56, 28], spec)
    first = run(implementation, frames.transpose(0, 3, 1, 2), [28, 56], [56, 28], spec)
    np.testing.assert_allclose(first, want, atol=1e-3)
    as_float = run(implementation, frames.astype(np.float32), [28, 56], [56, 28], spec)
    np.testing.assert_allclose(as_float, want, atol=1e-3)
    # Levels between the whole ones: what half precision keeps of them is the frames' own.
    between = (frames + rng.uniform(-0.5, 0.5, frames.shape)).astype(np.float32)
    got = run(implementation, between, [28, 56], [56, 28], spec)
    want = expected(between, [28, 56], [56, 28], spec)
    check(got, want, **tolerance(implementation, precision))


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
def test_unused_frames_may_hold_anything(implementation):
    frames = picture(np.random.default_rng(4), 6, 40, 40, 3).astype(np.float32)
    poisoned = frames.copy()
    poisoned[[0, 1, 4, 5]] = np.nan
    sizes = [0, 56, 0], [0, 28, 0]
    spec = spec_for(*sizes, padding=3)
    got = run(implementation, poisoned, *sizes, spec)
    np.testing.assert_array_equal(got, run(implementation, frames, *sizes, spec))
    assert np.isfinite(got).all()


@every
def test_what_does_not_fit_is_left_out_whole(implementation):
    frames = picture(np.random.default_rng(5), 4, 40, 40, 3)
    spec = spec_for([28, 56], [56, 28], **LEVELS)
    want = run(implementation, frames, [28, 0], [56, 0], spec)
    # Twice the capacity's blocks in the second unit: it is missing, the first is not.
    np.testing.assert_array_equal(run(implementation, frames, [28, 56], [56, 56], spec), want)


@every
def test_a_flat_frame_stays_flat(implementation):
    frames = np.full((4, 37, 53, 3), 201, np.uint8)
    spec = spec_for([112, 28], [56, 28], precision="high", **LEVELS)
    got = run(implementation, frames, [112, 28], [56, 28], spec)
    np.testing.assert_allclose(got, 201, atol=0.01)
