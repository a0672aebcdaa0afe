"""The jnp reference against a float64 oracle, and the contract every backend keeps."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resize_oracle as oracle

from kernels.resize_patchify import reference, resize_patchify
from kernels.resize_patchify.api import CLIP_MEAN, CLIP_STD
from kernels.resize_patchify.reference import resize_weights

# With these, outputs are grey levels.
LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
TOLERANCE = 0.02  # grey levels: what float32 costs


def picture(rng, *shape):
    """Noise over gradients: full range, hard edges."""
    *lead, height, width, channels = shape
    ramp = np.linspace(0, 180, height)[:, None, None] + np.linspace(0, 75, width)[None, :, None]
    noise = rng.uniform(-120, 120, shape) * (rng.uniform(size=shape) < 0.3)
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


@cache
def compiled(**kwargs):
    return jax.jit(partial(resize_patchify, **kwargs))


def call(frames, heights, widths, table, **kwargs):
    sizes = jnp.asarray(heights, jnp.int32), jnp.asarray(widths, jnp.int32)
    return np.asarray(compiled(**kwargs)(jnp.asarray(frames), *sizes, *jnp.asarray(table).T))


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "in_size, out_size, filter, antialias, row, expected",
    [
        # r = f = 2, c₀ = ½: k(¼), k(¼), k(¾), k(1¼) = .75, .75, .25, 0; sum 1.75.
        (4, 2, "bilinear", True, 0, [3 / 7, 3 / 7, 1 / 7, 0]),
        # c₀ = -¼, clamped: .75 on pixel 0 and .25 on its copy.
        (2, 4, "bilinear", False, 0, [1, 0]),
        # c₀ = -¼, a = -½: k(¼) = .8671875, k(1¼) = -.0703125, the outside is dropped.
        (2, 4, "bicubic", True, 0, [0.8671875 / 0.796875, -0.0703125 / 0.796875]),
        # a = -¾: k(1¾) = -.03515625 and k(¾) = .26171875 fall on copies of pixel 0.
        (2, 4, "bicubic", False, 0, [0.87890625 + 0.26171875 - 0.03515625, -0.10546875]),
        # c₀ = -¼: k(x) = 3 sin(πx) sin(πx/3) / (πx)² at ¼ and 1¼, the outside dropped.
        (2, 4, "lanczos", True, 0, [0.8900671 / 0.7571960, -0.1328710 / 0.7571960]),
        # One pixel can only be repeated.
        (1, 3, "bicubic", True, 1, [1]),
        (1, 3, "bicubic", False, 2, [1]),
    ],
)
def test_weights_by_hand(in_size, out_size, filter, antialias, row, expected):
    matrix = resize_weights(
        in_size, jnp.int32(out_size), out_size + 2, filter=filter, antialias=antialias
    )
    np.testing.assert_allclose(matrix[row], expected, atol=1e-6)
    np.testing.assert_array_equal(matrix[out_size:], 0)


@pytest.mark.parametrize(
    "filter, antialias",
    [
        ("bicubic", True),
        ("bicubic", False),
        ("bilinear", True),
        ("bilinear", False),
        ("lanczos", True),
    ],
)
def test_weights_equal_the_oracle(filter, antialias):
    for in_size, out_sizes in [(180, (14, 140)), (45, (28, 84)), (28, (28,)), (13, (56,))]:
        for out_size in out_sizes:
            got = resize_weights(
                in_size, jnp.int32(out_size), max(out_sizes), filter=filter, antialias=antialias
            )
            want = oracle.weights(in_size, out_size, filter, antialias)
            # Two matrices in a row over 255 levels: 1e-6 here is well below 0.001 level.
            np.testing.assert_allclose(got[:out_size], want, atol=1e-6)


def test_lanczos_needs_antialias():
    with pytest.raises(ValueError, match="antialias"):
        resize_weights(4, jnp.int32(2), 2, filter="lanczos", antialias=False)


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ["none", "final"])
@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [True, False])
def test_equals_the_oracle(filter, antialias, rounding):
    # Five frames: the third unit repeats its last. Up, down, both, and one single block.
    frames = picture(np.random.default_rng(0), 5, 45, 61, 3)
    heights, widths = [28, 84, 28], [56, 28, 28]
    table = oracle.tables(heights, widths)
    how = {"filter": filter, "antialias": antialias, "rounding": rounding, **LEVELS}
    got = call(frames, heights, widths, table, max_height=84, max_width=56, **how)
    want = oracle.resize_patchify(frames, heights, widths, table, **how)
    if rounding == "none":
        np.testing.assert_allclose(got, want, atol=TOLERANCE)
        assert want.min() < 0 or filter == "bilinear"  # bicubic overshoots and is not clamped
    else:
        # A value within float32 error of a half may round the other way.
        difference = np.abs(got - want)
        assert difference.max() <= 1 and (difference > TOLERANCE).mean() < 1e-3


def test_patch_16_and_larger_units_equal_the_oracle():
    frames = picture(np.random.default_rng(1), 4, 40, 33, 3)
    heights, widths = [64], [32]
    table = oracle.tables(heights, widths, patch_size=16)
    how = {"patch_size": 16, "temporal_patch_size": 4, **LEVELS}
    got = call(frames, heights, widths, table, max_height=64, max_width=64, **how)
    want = oracle.resize_patchify(frames, heights, widths, table, **how)
    np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_without_antialias_it_is_another_picture():
    frames = picture(np.random.default_rng(0), 2, 112, 112, 3)
    table = oracle.tables([28], [28])
    want = oracle.resize_patchify(frames, [28], [28], table, **LEVELS)
    got = call(frames, [28], [28], table, max_height=28, max_width=28, antialias=False, **LEVELS)
    assert np.abs(got - want).max() > 10


def test_normalisation_is_clip_by_default():
    frames = np.zeros((2, 28, 28, 3), np.uint8)
    frames[..., 1] = 255
    got = call(frames, [28], [28], oracle.tables([28], [28]), max_height=28, max_width=28)
    got = got.reshape(4, 3, 2 * 14 * 14)
    for channel, value in enumerate([0.0, 1.0, 0.0]):
        want = (value - CLIP_MEAN[channel]) / CLIP_STD[channel]
        np.testing.assert_allclose(got[:, channel], want, rtol=1e-5)


def test_same_size_is_the_identity_in_patch_order():
    # Pixel value = row for channel 0, column for 1, frame for 2.
    frames = np.zeros((2, 56, 84, 3), np.float32)
    frames[..., 0] = np.arange(56)[None, :, None]
    frames[..., 1] = np.arange(84)[None, None, :]
    frames[..., 2] = np.arange(2)[:, None, None]
    table = oracle.tables([56], [84])
    got = call(frames, [56], [84], table, max_height=56, max_width=84, **LEVELS)
    got = np.rint(got * 2**10).reshape(-1, 3, 2, 14, 14) / 2**10
    for patch, (_, row, col) in zip(got, table, strict=True):
        inside = np.arange(14)
        np.testing.assert_array_equal(
            patch[0], np.broadcast_to(14 * row + inside[:, None], (2, 14, 14))
        )
        np.testing.assert_array_equal(patch[1], np.broadcast_to(14 * col + inside, (2, 14, 14)))
        np.testing.assert_array_equal(patch[2, 0], 0)
        np.testing.assert_array_equal(patch[2, 1], 1)
    # The second row of the table is the right neighbour, the third is below: 2x2 blocks.
    assert table[:4].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]


def test_a_flat_frame_stays_flat_at_every_size():
    frames = np.full((6, 37, 53, 3), 201, np.uint8)
    heights, widths = [28, 112, 56], [112, 28, 56]
    table = oracle.tables(heights, widths)
    got = call(frames, heights, widths, table, max_height=112, max_width=112, **LEVELS)
    np.testing.assert_allclose(got, 201, atol=1e-3)


def test_single_frame_is_duplicated():
    frames = picture(np.random.default_rng(2), 1, 30, 30, 3)
    table = oracle.tables([28], [28])
    got = call(frames, [28], [28], table, max_height=28, max_width=28).reshape(4, 3, 2, -1)
    np.testing.assert_array_equal(got[:, :, 0], got[:, :, 1])
    assert got.std() > 0.1


# --- layout ----------------------------------------------------------------------------------


def test_tail_is_zero_and_any_order_is_served():
    frames = picture(np.random.default_rng(3), 4, 40, 40, 3)
    heights, widths = [28, 56], [56, 28]
    table = oracle.tables(heights, widths)
    kwargs = {"max_height": 56, "max_width": 56}
    full = call(frames, heights, widths, table, **kwargs)
    padded = np.concatenate([table, np.array([[-1, 0, 0], [-1, 99, -5]], np.int32)])
    got = call(frames, heights, widths, padded, **kwargs)
    np.testing.assert_array_equal(got[:-2], full)
    np.testing.assert_array_equal(got[-2:], 0)
    shuffled = np.random.default_rng(0).permutation(len(table))
    got = call(frames, heights, widths, table[shuffled], **kwargs)
    np.testing.assert_array_equal(got, full[shuffled])
    # No valid row at all.
    nothing = np.full((3, 3), -1, np.int32)
    np.testing.assert_array_equal(call(frames, heights, widths, nothing, **kwargs), 0)


def test_poisoned_unused_frames_change_nothing():
    frames = picture(np.random.default_rng(4), 6, 40, 40, 3).astype(np.float32)
    poisoned = frames.copy()
    poisoned[[0, 1, 4, 5]] = np.nan
    table = np.concatenate([oracle.tables([0, 56, 0], [0, 28, 0]), np.full((4, 3), -1, np.int32)])
    kwargs = {"max_height": 56, "max_width": 56}
    clean = call(frames, [0, 56, 0], [0, 28, 0], table, **kwargs)
    got = call(poisoned, [0, 56, 0], [0, 28, 0], table, **kwargs)
    np.testing.assert_array_equal(got, clean)
    assert np.all(np.isfinite(got))


def test_jit_equals_eager_and_compiles_once():
    count = []

    @jax.jit
    def patchify(*args):
        count.append(1)
        return resize_patchify(*args, max_height=84, max_width=84)

    frames = jnp.asarray(picture(np.random.default_rng(5), 4, 50, 70, 3))
    for heights, widths in [([28, 84], [56, 84]), ([56, 0], [56, 0]), ([28, 28], [28, 28])]:
        table = np.full((48, 3), -1, np.int32)
        rows = oracle.tables(heights, widths)
        table[: len(rows)] = rows
        args = frames, jnp.array(heights), jnp.array(widths), *jnp.asarray(table).T
        jitted = patchify(*args)
    assert len(count) == 1
    eager = resize_patchify(*args, max_height=84, max_width=84)
    np.testing.assert_allclose(jitted, eager, atol=1e-5)


def test_layout_dtype_batching_and_chunks_agree(monkeypatch):
    rng = np.random.default_rng(6)
    frames = picture(rng, 2, 5, 40, 44, 3)
    heights = np.array([[28, 56, 28], [56, 28, 28]], np.int32)
    widths = np.array([[28, 28, 56], [28, 56, 28]], np.int32)
    table = np.stack([oracle.tables(*sizes) for sizes in zip(heights, widths, strict=True)])
    kwargs = {"max_height": 56, "max_width": 56}
    want = [call(*args, **kwargs) for args in zip(frames, heights, widths, table, strict=True)]
    for i in range(2):
        args = heights[i], widths[i], table[i]
        first = call(frames[i].transpose(0, 3, 1, 2), *args, **kwargs)
        np.testing.assert_array_equal(first, want[i])
        as_float = call(frames[i].astype(np.float32), *args, **kwargs)
        np.testing.assert_array_equal(as_float, want[i])
    batched = jax.jit(jax.vmap(partial(resize_patchify, **kwargs)))(
        frames, heights, widths, *np.moveaxis(table, -1, 0)
    )
    np.testing.assert_allclose(batched, want, atol=1e-5)
    # One unit at a time, as for large frames.
    monkeypatch.setattr(reference, "_CHUNK_BYTES", 1)
    compiled.cache_clear()
    chunked = call(frames[0], heights[0], widths[0], table[0], **kwargs)
    compiled.cache_clear()
    np.testing.assert_allclose(chunked, want[0], atol=1e-5)


# --- gradients -------------------------------------------------------------------------------


def linear_map(table, heights, widths, **kwargs):
    def apply(frames):
        # Zero mean: the affine map becomes linear.
        return resize_patchify(
            frames,
            jnp.asarray(heights),
            jnp.asarray(widths),
            *jnp.asarray(table).T,
            max_height=84,
            max_width=56,
            mean=(0.0, 0.0, 0.0),
            **kwargs,
        )

    return jax.jit(apply)


@pytest.mark.parametrize("antialias", [True, False])
def test_adjoint_identity(antialias):
    rng = np.random.default_rng(7)
    heights, widths = [28, 84], [56, 28]
    table = np.concatenate([oracle.tables(heights, widths), np.full((2, 3), -1, np.int32)])
    apply = linear_map(table, heights, widths, antialias=antialias)
    x = jnp.asarray(rng.normal(size=(3, 45, 61, 3)), jnp.float32)
    patches, transpose = jax.vjp(apply, x)
    y = jnp.asarray(rng.normal(size=patches.shape), jnp.float32)
    (adjoint,) = transpose(y)
    # <R x, y> = <x, Rᵀ y>, summed in float64.
    left = np.vdot(np.float64(patches), np.float64(y))
    right = np.vdot(np.float64(x), np.float64(adjoint))
    scale = np.linalg.norm(patches) * np.linalg.norm(y)
    assert abs(left - right) < 1e-6 * scale
    assert np.linalg.norm(adjoint) > 1


def test_gradient_skips_what_no_row_names_even_if_poisoned():
    x = jnp.ones((6, 45, 61, 3)).at[2:].set(jnp.nan)
    table = np.concatenate([oracle.tables([28, 0, 0], [28, 0, 0]), np.full((2, 3), -1, np.int32)])
    grad = jax.grad(lambda v: linear_map(table, [28, 0, 0], [28, 0, 0])(v).sum())(x)
    np.testing.assert_array_equal(grad[2:], 0)
    assert np.all(np.isfinite(grad)) and float(jnp.abs(grad[:2]).max()) > 0


def test_sizes_have_no_gradient_and_rounding_is_a_staircase():
    table = oracle.tables([28], [28])
    frames = jnp.asarray(picture(np.random.default_rng(8), 2, 40, 40, 3), jnp.float32)

    @partial(jax.jit, static_argnums=2)
    def total(frames, heights, rounding):
        args = frames, heights, jnp.array([28]), *jnp.asarray(table).T
        return resize_patchify(*args, max_height=28, max_width=28, rounding=rounding).sum()

    grads = jax.grad(total, argnums=(0, 1), allow_int=True)(frames, jnp.array([28]), "none")
    assert grads[1].dtype == jax.dtypes.float0
    assert float(jnp.abs(grads[0]).sum()) > 0
    staircase = jax.grad(total)(frames, jnp.array([28]), "final")
    np.testing.assert_array_equal(staircase, 0)


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"frames": np.zeros((4, 28, 28), np.uint8)}, "frames must be"),
        ({"frames": np.zeros((4, 28, 28, 4), np.uint8)}, "frames must be"),
        ({"frames": np.zeros((0, 28, 28, 3), np.uint8)}, "frames must be"),
        ({"frames": np.zeros((4, 28, 28, 3), np.int32)}, "uint8 or floating point"),
        ({"frames": np.zeros((6, 28, 28, 3), np.uint8)}, "6 frames make 3 units of 2, but 2 sizes"),
        ({"heights": np.array([28])}, "vectors of one length"),
        ({"widths": np.array([28.0, 28.0])}, "widths must be integer"),
        ({"patch_row": np.zeros((4, 1), np.int32)}, "vectors of one length"),
        ({"patch_unit": np.zeros(4, np.float32)}, "patch_unit must be integer"),
        ({"heights": np.array([28, 42])}, "heights must not exceed 28"),
        ({"max_height": 30}, "multiples of 14"),
        ({"max_width": 0}, "multiples of 14"),
        ({"filter": "lanczos"}, "filter must be"),
        ({"rounding": "both"}, "rounding must be"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    arguments = {
        "frames": np.zeros((4, 28, 28, 3), np.uint8),
        "heights": np.array([28, 28]),
        "widths": np.array([28, 28]),
        "patch_unit": np.zeros(4, np.int32),
        "patch_row": np.zeros(4, np.int32),
        "patch_col": np.zeros(4, np.int32),
        "max_height": 28,
        "max_width": 28,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        resize_patchify(**arguments)
