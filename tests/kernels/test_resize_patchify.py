"""The op as its users call it: layout, tracing, batches, gradients, choice of backend, errors."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from resize_parts import LEVELS, expected, picture, spec_for

from kernels.resize_patchify import (
    PatchSpec,
    backends,
    patchify,
    reference,
    resize_patchify,
    shard_resize_patchify,
)
from kernels.resize_patchify.layout import lay_out
from kernels.resize_patchify.spec import CLIP_MEAN, CLIP_STD


@cache
def compiled(spec):
    return jax.jit(partial(resize_patchify, spec=spec))


@cache
def batched(spec):
    return jax.jit(jax.vmap(partial(resize_patchify, spec=spec)))


def call(frames, heights, widths, spec):
    sizes = jnp.asarray(heights, jnp.int32), jnp.asarray(widths, jnp.int32)
    return compiled(spec)(jnp.asarray(frames), *sizes)


# --- values ----------------------------------------------------------------------------------


def test_equals_the_oracle():
    frames = picture(np.random.default_rng(0), 5, 45, 61, 3)
    sizes = [28, 84, 28], [56, 28, 28]
    spec = spec_for(*sizes, padding=2, **LEVELS)
    got = call(frames, *sizes, spec)
    want = expected(frames, *sizes, spec)
    np.testing.assert_allclose(got.patches, want, atol=0.02)
    assert not got.overflow
    assert want.min() < 0  # bicubic overshoots and is not clamped


def test_without_antialias_it_is_another_picture():
    frames = picture(np.random.default_rng(0), 2, 112, 112, 3)
    spec = spec_for([28], [28], **LEVELS)
    got = call(frames, [28], [28], spec_for([28], [28], antialias=False, **LEVELS))
    assert np.abs(got.patches - expected(frames, [28], [28], spec)).max() > 10


def test_normalisation_is_clip_by_default():
    frames = np.zeros((2, 28, 28, 3), np.uint8)
    frames[..., 1] = 255
    got = call(frames, [28], [28], spec_for([28], [28])).patches.reshape(4, 3, 2 * 14 * 14)
    for channel, value in enumerate([0.0, 1.0, 0.0]):
        want = (value - CLIP_MEAN[channel]) / CLIP_STD[channel]
        np.testing.assert_allclose(got[:, channel], want, rtol=1e-5)


def test_same_size_is_the_identity_in_patch_order():
    # Pixel value = row for channel 0, column for 1, frame for 2.
    frames = np.zeros((2, 56, 84, 3), np.float32)
    frames[..., 0] = np.arange(56)[None, :, None]
    frames[..., 1] = np.arange(84)[None, None, :]
    frames[..., 2] = np.arange(2)[:, None, None]
    got = call(frames, [56], [84], spec_for([56], [84], **LEVELS)).patches
    got = np.rint(np.asarray(got) * 2**10).reshape(-1, 3, 2, 14, 14) / 2**10
    inside = np.arange(14)
    for index, patch in enumerate(got):
        block, within = divmod(index, 4)
        row = 2 * (block // 3) + within // 2
        col = 2 * (block % 3) + within % 2
        rows = np.broadcast_to(14 * row + inside[:, None], (2, 14, 14))
        np.testing.assert_array_equal(patch[0], rows)
        np.testing.assert_array_equal(patch[1], np.broadcast_to(14 * col + inside, (2, 14, 14)))
        np.testing.assert_array_equal(patch[2, 0], 0)
        np.testing.assert_array_equal(patch[2, 1], 1)


@pytest.mark.parametrize("rounding", ["none", "final"])
@pytest.mark.parametrize("kind", ["bytes", "floats", "channels first"])
def test_patchify_is_the_op_where_nothing_is_resized(kind, rounding):
    frames = picture(np.random.default_rng(0), 5, 56, 84, 3)  # its last unit lacks a frame
    if kind == "floats":
        frames = frames * np.float32(1.2) - 20  # beyond the range that rounding clips to
    elif kind == "channels first":
        frames = np.moveaxis(frames, -1, 1)
    spec = spec_for([56] * 3, [84] * 3, rounding=rounding)
    want = call(frames, [56] * 3, [84] * 3, spec).patches
    got = jax.jit(partial(patchify, spec=spec))(frames)
    np.testing.assert_array_equal(got, want)
    batch = np.stack([frames, frames[::-1]])
    pair = jax.vmap(partial(patchify, spec=spec))(batch)
    np.testing.assert_array_equal(pair[0], got)
    assert not np.array_equal(pair[1], got)


def test_patchify_fills_its_capacity():
    frames, spec = np.zeros((4, 56, 84, 3), np.float32), spec_for([56] * 2, [84] * 2)
    np.testing.assert_array_equal(patchify(frames.tolist(), spec), patchify(frames, spec))
    with pytest.raises(ValueError, match="the units are 12 blocks, capacity is 13"):
        patchify(frames, spec_for([56] * 2, [84] * 2, padding=1))
    with pytest.raises(ValueError, match="heights must be multiples of 28, got 50"):
        patchify(frames[:, :50], spec)
    with pytest.raises(ValueError, match="frames must be "):
        patchify(1.0, spec)


def test_single_frame_is_duplicated():
    frames = picture(np.random.default_rng(2), 1, 30, 30, 3)
    got = call(frames, [28], [28], spec_for([28], [28])).patches.reshape(4, 3, 2, -1)
    np.testing.assert_array_equal(got[:, :, 0], got[:, :, 1])
    assert got.std() > 0.1


# --- tracing and batches ---------------------------------------------------------------------


def test_one_compilation_serves_every_size():
    count = []

    @jax.jit
    def patchify(*args):
        count.append(1)
        return resize_patchify(*args, spec)

    spec = PatchSpec(capacity=12, max_height=84, max_width=84)
    frames = jnp.asarray(picture(np.random.default_rng(5), 4, 50, 70, 3))
    for heights, widths in [([28, 84], [56, 84]), ([56, 0], [56, 0]), ([28, 28], [28, 28])]:
        sizes = jnp.array(heights), jnp.array(widths)
        jitted = patchify(frames, *sizes)
        eager = resize_patchify(frames, *sizes, spec)
        np.testing.assert_allclose(jitted.patches, eager.patches, atol=1e-5)
    assert len(count) == 1


def clips(rng):
    frames = picture(rng, 4, 5, 40, 44, 3)
    heights = np.array([[28, 56, 28], [56, 28, 28], [28, 0, 0], [56, 56, 56]], np.int32)
    widths = np.array([[28, 28, 56], [28, 56, 28], [28, 0, 0], [56, 56, 56]], np.int32)
    spec = PatchSpec(capacity=6, max_height=56, max_width=56)
    return frames, heights, widths, spec


def test_a_batch_is_its_clips_in_one_launch(monkeypatch):
    *arrays, spec = clips(np.random.default_rng(6))
    want = [call(*clip, spec) for clip in zip(*arrays, strict=True)]
    launches = []
    run = backends.run
    monkeypatch.setattr(backends, "run", lambda *args: launches.append(args[0].shape) or run(*args))
    spec = PatchSpec(capacity=6, max_height=56, max_width=56, precision="high")  # not compiled yet
    got = jax.jit(jax.vmap(partial(resize_patchify, spec=spec)))(*arrays)
    assert launches[-1] == (4, 5, 40, 44, 3)
    np.testing.assert_allclose(got.patches, [w.patches for w in want], atol=1e-5)
    assert got.overflow.tolist() == [False, False, False, True]
    # Allocations of one clip, in two axes: frames are not batched in the inner one.
    allocations = jax.vmap(partial(resize_patchify, spec=spec), in_axes=(None, 0, 0))
    sizes = (x[:2][:, None].repeat(2, axis=1) for x in arrays[1:])
    nested = jax.jit(jax.vmap(allocations))(arrays[0][:2], *sizes)
    for i in range(2):
        np.testing.assert_allclose(nested.patches[i, 1], want[i].patches, atol=1e-5)


def test_units_may_be_resized_one_at_a_time(monkeypatch):
    frames, heights, widths, spec = clips(np.random.default_rng(6))
    want = call(frames[0], heights[0], widths[0], spec).patches
    monkeypatch.setattr(reference, "_CHUNK_BYTES", 1)  # as for large frames
    spec = PatchSpec(capacity=6, max_height=56, max_width=56, precision="high")
    chunked = jax.jit(partial(resize_patchify, spec=spec))(frames[0], heights[0], widths[0])
    np.testing.assert_allclose(chunked.patches, want, atol=1e-5)


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
def test_sharded_over_clips_equals_one_device(axes):
    *arrays, spec = clips(np.random.default_rng(7))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axes,), devices=jax.devices()[:4])
    along = NamedSharding(mesh, PartitionSpec("data"))
    placed = [jax.device_put(x, along) for x in arrays]
    sharded = jax.jit(partial(shard_resize_patchify, spec=spec, mesh=mesh))
    want = batched(spec)(*arrays)
    got = sharded(*placed)
    assert got.patches.sharding.is_equivalent_to(along, 3)
    np.testing.assert_allclose(got.patches, want.patches, atol=1e-5)
    assert jax.eval_shape(sharded, *arrays).patches.shape == want.patches.shape
    text = sharded.lower(*placed).compile().as_text()
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all"))


def test_clips_of_a_vmap_stay_where_they_lie():
    *arrays, spec = clips(np.random.default_rng(7))
    axes = ("data", "fsdp")
    mesh = jax.make_mesh((2, 2, 2), (*axes, "tensor"), axis_types=(AxisType.Auto,) * 3)
    along = NamedSharding(mesh, PartitionSpec(axes))
    run = jax.jit(jax.vmap(partial(resize_patchify, spec=spec, batch_axes=axes)))
    with jax.set_mesh(mesh):
        traced = run.trace(*(jax.device_put(x, along) for x in arrays))
        got = run(*(jax.device_put(x, along) for x in arrays))
    np.testing.assert_allclose(got.patches, batched(spec)(*arrays).patches, atol=1e-5)
    assert got.patches.sharding.spec == PartitionSpec(axes)
    # XLA cannot split a kernel, nor a loop over units.
    assert "shard_map" in str(traced.jaxpr)


def test_clips_that_lie_elsewhere_are_moved_to_an_explicit_axis():
    frames, *sizes, spec = clips(np.random.default_rng(7))
    mesh = jax.make_mesh(
        (2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2]
    )
    with jax.set_mesh(mesh):
        got = shard_resize_patchify(frames[:2], *(x[:2] for x in sizes), spec, mesh=mesh)
    assert got.patches.sharding.spec[0] == "data"
    want = batched(spec)(frames, *sizes).patches[:2]
    np.testing.assert_allclose(got.patches, want, atol=1e-5)


def test_a_size_that_is_none_is_left_out_alone():
    """Known only when the program runs, so it is flagged."""
    frames = picture(np.random.default_rng(6), 1, 6, 40, 44, 3)
    heights = np.array([[28, 30, 56], [28, -28, 56], [28, 84, 56], [28, 0, 56]], np.int32)
    got = batched(PatchSpec(capacity=3, max_height=56, max_width=56))(
        frames.repeat(4, axis=0), heights, np.full((4, 3), 28, np.int32)
    )
    assert got.overflow.tolist() == [True, True, True, False]
    for patches in got.patches[:3]:
        np.testing.assert_array_equal(patches, got.patches[3])
    with jax.enable_x64(True):
        spec = PatchSpec(capacity=1, max_height=28, max_width=28)
        sizes = jnp.array([[28, 28 + 7 * 2**32, 28 - 7 * 2**32]])
        layout, overflow = jax.jit(partial(lay_out, canvas=(28, 28), spec=spec))(
            (sizes, sizes), None
        )
    assert layout.heights.tolist() == [[28, 0, 0]] and overflow.tolist() == [True]


# --- gradients -------------------------------------------------------------------------------


def linear_map(heights, widths, **kwargs):
    # Zero mean: the affine map becomes linear.
    spec = PatchSpec(capacity=10, max_height=84, max_width=56, mean=(0.0,) * 3, **kwargs)
    return lambda frames: call(frames, heights, widths, spec).patches


@pytest.mark.parametrize("antialias", [True, False])
def test_adjoint_identity(antialias):
    rng = np.random.default_rng(7)
    apply = linear_map([28, 84], [56, 28], antialias=antialias)
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


def test_gradient_skips_what_is_absent_even_if_poisoned():
    x = jnp.ones((6, 45, 61, 3)).at[2:].set(jnp.nan)
    grad = jax.grad(lambda v: linear_map([28, 0, 0], [28, 0, 0])(v).sum())(x)
    np.testing.assert_array_equal(grad[2:], 0)
    assert np.all(np.isfinite(grad)) and float(jnp.abs(grad[:2]).max()) > 0


def test_gradients_of_a_batch_are_those_of_its_clips():
    rng = np.random.default_rng(9)
    x = jnp.asarray(rng.normal(size=(2, 3, 45, 61, 3)), jnp.float32)
    heights, widths = jnp.array([[28, 84], [56, 28]]), jnp.array([[56, 28], [28, 28]])
    spec = PatchSpec(capacity=10, max_height=84, max_width=56)

    def squares(x, h, w):
        return jnp.sum(resize_patchify(x, h, w, spec).patches ** 2)

    got = jax.jit(jax.vmap(jax.grad(squares)))(x, heights, widths)
    one = jax.jit(jax.grad(squares))
    for i in range(2):
        np.testing.assert_allclose(got[i], one(x[i], heights[i], widths[i]), rtol=1e-4, atol=1e-4)


def test_sizes_have_no_gradient_and_rounding_is_a_staircase():
    frames = jnp.asarray(picture(np.random.default_rng(8), 2, 40, 40, 3), jnp.float32)

    @partial(jax.jit, static_argnums=2)
    def total(frames, heights, rounding):
        spec = PatchSpec(capacity=1, max_height=28, max_width=28, rounding=rounding)
        return resize_patchify(frames, heights, jnp.array([28]), spec).patches.sum()

    grads = jax.grad(total, argnums=(0, 1), allow_int=True)(frames, jnp.array([28]), "none")
    assert grads[1].dtype == jax.dtypes.float0
    assert float(jnp.abs(grads[0]).sum()) > 0
    staircase = jax.grad(total)(frames, jnp.array([28]), "final")
    np.testing.assert_array_equal(staircase, 0)


# --- errors ----------------------------------------------------------------------------------


def example():
    sizes = np.array([28, 28]), np.array([28, 28])
    return (
        np.zeros((4, 28, 28, 3), np.uint8),
        *sizes,
        PatchSpec(capacity=2, max_height=28, max_width=28),
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"frames": np.zeros((4, 28, 28), np.uint8)}, "frames must be"),
        ({"frames": np.zeros((4, 28, 28, 4), np.uint8)}, "frames must be"),
        ({"frames": np.zeros((0, 28, 28, 3), np.uint8)}, "frames is empty, its shape is"),
        ({"frames": None}, "frames must be an array of numbers, got NoneType"),
        ({"frames": [[0], [1, 2]]}, "frames is no array"),
        ({"frames": np.zeros((4, 28, 28, 3), np.int32)}, "uint8 or floating point"),
        (
            {"frames": np.zeros((6, 28, 28, 3), np.uint8)},
            "6 frames make 3 units of 2, but heights has shape",
        ),
        ({"widths": np.array([28])}, "4 frames make 2 units of 2, but widths has shape"),
        ({"widths": np.array([28.0, 28.0])}, "widths must be integer"),
        ({"heights": np.array([28, 42])}, "heights must be multiples of 28, got 42"),
        ({"heights": np.array([28, -28])}, "heights must not be negative, got -28"),
        (
            {"heights": np.array([28, 28 + 7 * 2**32])},
            "must not exceed 28, got 30064771100",
        ),
        ({"heights": [28, "28"]}, "heights must be integer"),
        ({"heights": np.array([28, 56])}, "heights must not exceed 28"),
        ({"capacity": 1}, "ask for 2 blocks, capacity is 1"),
        ({"spec": None}, "spec must be a PatchSpec, got NoneType"),
        ({"capacity": 0}, "capacity must be an integer from 1 to"),
        ({"capacity": 2**30}, "capacity must be an integer from 1 to"),
        ({"capacity": 2.0}, "capacity must be an integer"),
        ({"capacity": True}, "capacity must be an integer"),
        ({"max_height": "28"}, "max_height must be an integer"),
        ({"max_height": 42}, "max_height must be a multiple of 28"),
        ({"max_width": 0}, "max_width must be an integer from 1 to 16384"),
        ({"patch_size": 2**20}, "patch_size must be an integer"),
        ({"antialias": 1}, "antialias must be True or False"),
        ({"mean": (0.5, 0.5)}, "mean must be a tuple of 3 finite numbers"),
        ({"mean": 0.5}, "mean must be a tuple"),
        ({"std": [0.5, 0.5, 0.5]}, "std must be a tuple of 3 positive numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be"),
        ({"std": (0.5, float("nan"), 0.5)}, "std must be"),
        ({"filter": "nearest"}, "filter must be"),
        ({"filter": "lanczos", "antialias": False}, "lanczos is defined with antialias only"),
        ({"rounding": "both"}, "rounding must be"),
        ({"precision": "double"}, "precision must be"),
        ({"dtype": "int8"}, "dtype must be"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    names = ("frames", "heights", "widths")
    arrays = dict(zip(names, example(), strict=False))
    spec = {"capacity": 2, "max_height": 28, "max_width": 28}
    for name, value in change.items():
        (arrays if name in (*names, "spec") else spec)[name] = value
    with pytest.raises(ValueError, match=message):
        resize_patchify(**{"spec": PatchSpec(**spec)} | arrays)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"mesh": None}, "mesh must be a jax.sharding.Mesh, got NoneType"),
        ({"axis": "batch"}, "axis 'batch' is none of the mesh's: data"),
        ({"frames": np.zeros((4, 28, 28, 3), np.uint8)}, "frames must be \\[B, F, H, W, 3\\]"),
        ({"frames": np.zeros((6, 2, 28, 28, 3), np.uint8)}, "but heights has shape \\(4, 1\\)"),
        ({"widths": np.full((4, 1), 42)}, "widths must be multiples of 28, got 42"),
        ({"heights": np.full((4, 1), 56)}, "ask for 2 blocks, capacity is 1"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change, message):
    sizes = np.full((4, 1), 28)
    arguments = {"frames": np.zeros((4, 2, 28, 28, 3), np.uint8), "heights": sizes, "widths": sizes}
    spec = PatchSpec(capacity=1, max_height=56, max_width=28)
    mesh = {"mesh": jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])}
    with pytest.raises(ValueError, match=message):
        shard_resize_patchify(**arguments | mesh | change, spec=spec)


def test_an_axis_must_divide_the_batch():
    sizes = np.full((3, 1), 28)
    spec = PatchSpec(capacity=1, max_height=28, max_width=28)
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    with pytest.raises(ValueError, match="axis 'data' of 2 devices does not divide 3 clips"):
        shard_resize_patchify(np.zeros((3, 2, 28, 28, 3)), sizes, sizes, spec, mesh=mesh)


def test_lists_and_tensors_are_arrays():
    frames, _, _, spec = example()
    shape = (2 * 4, spec.features)
    run = partial(resize_patchify, spec=spec)
    assert jax.eval_shape(lambda: run(frames, [28, 28], [28, 28])).patches.shape == shape
    torch = pytest.importorskip("torch")
    frames, sizes = torch.from_numpy(frames), torch.tensor([28, 28])
    assert jax.eval_shape(lambda: run(frames, sizes, sizes)).patches.shape == shape


def test_what_is_static_is_refused_under_jit_too():
    frames, heights, widths, spec = example()
    with pytest.raises(ValueError, match="2 frames make 1 units of 2"):
        jax.eval_shape(partial(resize_patchify, spec=spec), frames[:2], heights, widths)
