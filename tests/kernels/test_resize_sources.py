"""Frames of several native sizes in one canvas, as users of the op call it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from resize_parts import (
    CANVAS,
    CANVAS_SIZES,
    LEVELS,
    SOURCES,
    cropped,
    expected,
    op,
    picture,
    poisoned,
    spec_for,
)

from kernels.resize_patchify import PatchSpec, resize_patchify, shard_resize_patchify
from kernels.resize_patchify.layout import lay_out


def arrays(*sizes):
    return tuple(jnp.asarray(size, jnp.int32) for size in sizes)


def test_one_compilation_serves_every_mix():
    count = []

    @jax.jit
    def patchify(*args):
        count.append(1)
        return op(*args, spec=spec)

    spec = PatchSpec(capacity=8, max_height=56, max_width=56, **LEVELS)
    frames = picture(np.random.default_rng(3), 4, 50, 70, 3)
    for heights, widths, *sources in (
        ([28, 56], [56, 28], [50, 17], [33, 70]),
        ([28, 56], [56, 28], [9, 50], [70, 21]),
        ([28, 28], [28, 28], [1, 49], [1, 69]),
    ):
        got = patchify(frames, *arrays(heights, widths, *sources))
        want = expected(frames, heights, widths, spec, sources)
        np.testing.assert_allclose(got.patches, want, atol=0.02)
        assert not got.overflow
    assert len(count) == 1


def test_no_sources_are_the_whole_canvas():
    frames = picture(np.random.default_rng(3), 4, 50, 70, 3)
    sizes, spec = arrays([28, 56], [56, 28]), PatchSpec(capacity=4, max_height=56, max_width=56)
    for clip in (frames, frames.transpose(0, 3, 1, 2)):
        whole = op(clip, *sizes, *arrays([50, 50], [70, 70]), spec=spec)
        got = resize_patchify(clip, *sizes, spec)
        np.testing.assert_array_equal(got.patches, whole.patches)
        less = op(clip, *sizes, *arrays([50, 49], [69, 70]), spec=spec)
        assert (np.abs(less.patches - got.patches).reshape(2, -1).max(axis=1) > 0.01).all()


def clips(rng):
    """Four clips, of two units each."""
    frames = picture(rng, 4, 3, 40, 44, 3)
    heights = [[28, 56], [56, 28], [28, 0], [28, 28]]
    widths = [[28, 28], [28, 56], [28, 0], [56, 28]]
    source_heights = [[40, 31], [7, 40], [40, 0], [23, 19]]
    source_widths = [[13, 44], [44, 29], [44, 0], [37, 9]]
    spec = PatchSpec(capacity=4, max_height=56, max_width=56, **LEVELS)
    want = [
        expected(frames[n], heights[n], widths[n], spec, (source_heights[n], source_widths[n]))
        for n in range(4)
    ]
    return (frames, *arrays(heights, widths, source_heights, source_widths)), spec, want


def test_a_batch_has_sources_of_its_own():
    batch, spec, want = clips(np.random.default_rng(4))
    got = jax.jit(jax.vmap(partial(op, spec=spec)))(*batch)
    np.testing.assert_allclose(got.patches, want, atol=0.02)
    assert not got.overflow.any()
    # Mixes of one canvas: the frames are not batched.
    frames, *sizes = (x[0] for x in batch)
    axes = None, None, None, 0, 0
    mixes = (jnp.stack([size, size]).at[1].set(40) for size in sizes[2:])
    got = jax.jit(jax.vmap(partial(op, spec=spec), in_axes=axes))(frames, *sizes[:2], *mixes)
    np.testing.assert_allclose(got.patches[0], want[0], atol=0.02)
    whole = expected(frames, *np.asarray(sizes[:2]), spec, ([40, 40], [40, 40]))
    np.testing.assert_allclose(got.patches[1], whole, atol=0.02)


def test_sharded_over_clips():
    (frames, *sizes), spec, want = clips(np.random.default_rng(5))
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    heights, widths, *sources = sizes
    sources = dict(zip(("source_heights", "source_widths"), sources, strict=True))
    got = shard_resize_patchify(frames, heights, widths, spec, mesh=mesh, **sources)
    along = NamedSharding(mesh, PartitionSpec("data"))
    assert got.patches.sharding.is_equivalent_to(along, 3)
    np.testing.assert_allclose(got.patches, want, atol=0.02)


@pytest.mark.parametrize("antialias", [True, False])
def test_gradients_are_those_of_cropped_frames_and_zero_beyond(antialias):
    rng = np.random.default_rng(7)
    spec = spec_for(*CANVAS_SIZES, antialias=antialias)
    frames = poisoned(rng.uniform(0, 255, CANVAS), SOURCES, spec)
    weights = jnp.asarray(rng.normal(size=(4 * spec.capacity, spec.features)), jnp.float32)

    def total(frames, sizes, weights, spec):
        return jnp.vdot(weights, op(frames, *arrays(*sizes), spec=spec).patches)

    gradient = jax.jit(jax.grad(total), static_argnums=3)
    grad = np.asarray(gradient(jnp.asarray(frames), (*CANVAS_SIZES, *SOURCES), weights, spec))
    np.testing.assert_array_equal(grad, poisoned(grad, SOURCES, spec, 0.0))
    units, grads = (cropped(x, SOURCES, spec) for x in (frames, grad))
    for unit, got, height, width in zip(units, grads, *CANVAS_SIZES, strict=True):
        alone = spec_for([height], [width], antialias=antialias)
        rows, weights = np.split(weights, [4 * alone.capacity])
        sizes = [height], [width], [unit.shape[1]], [unit.shape[2]]
        want = gradient(jnp.asarray(unit), sizes, rows, alone)
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_sources_have_no_gradient():
    frames = jnp.asarray(picture(np.random.default_rng(8), 2, 40, 40, 3), jnp.float32)
    spec = PatchSpec(capacity=1, max_height=28, max_width=28)

    def total(frames, source):
        return op(frames, *arrays([28], [28]), source, source, spec=spec).patches.sum()

    grads = jax.grad(total, argnums=(0, 1), allow_int=True)(frames, *arrays([31]))
    assert grads[1].dtype == jax.dtypes.float0
    assert float(jnp.abs(grads[0][:, :31, :31]).sum()) > 0
    assert not grads[0][:, 31:].any() and not grads[0][:, :, 31:].any()


# --- sources that are none -------------------------------------------------------------------


@pytest.mark.parametrize(("side", "wrong"), [("rows", 41), ("rows", 0), ("cols", 45), ("cols", -3)])
def test_a_source_that_is_none_leaves_its_unit_out_alone(side, wrong):
    """Known only when the program runs, so it is flagged."""
    frames = picture(np.random.default_rng(9), 6, 40, 44, 3)
    sides = arrays([28, 28, 56], [28, 28, 28])
    sources = {"rows": jnp.array([31, 17, 40]), "cols": jnp.array([44, 9, 21])}
    spec = PatchSpec(capacity=4, max_height=56, max_width=56, **LEVELS)
    patchify = jax.jit(partial(op, spec=spec))
    want = patchify(frames, sides[0].at[1].set(0), sides[1], *sources.values())
    sources[side] = sources[side].at[1].set(wrong)
    got = patchify(frames, *sides, *sources.values())
    assert got.overflow and not want.overflow
    np.testing.assert_array_equal(got.patches, want.patches)
    there = expected(frames, [28, 0, 56], [28, 28, 28], spec, ([31, 1, 40], [44, 1, 21]))
    np.testing.assert_allclose(got.patches, there, atol=0.02)
    # Of a unit that is absent nobody asks.
    absent = patchify(frames, sides[0].at[1].set(0), sides[1], *sources.values())
    np.testing.assert_array_equal(absent.patches, want.patches)
    assert not absent.overflow


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"source_heights": [40, 40]}, "source_widths must be given, or neither"),
        ({"source_widths": [44, 44]}, "source_heights must be given, or neither"),
        (([41, 40], [44, 44]), "source_heights must be from 1 to 40, got 41"),
        (([40, 40], [44, 45]), "source_widths must be from 1 to 44, got 45"),
        (([40, 0], [44, 44]), "source_heights must be from 1 to 40, got 0"),
        (([40, 40], [-1, 44]), "source_widths must be from 1 to 44, got -1"),
        (([40, 40], [2**32 + 4, 44]), "source_widths must be from 1 to 44, got 4294967300"),
        (([40], [44, 44]), "but source_heights has shape \\(1,\\)"),
        (([40, 40], [44.0, 44.0]), "source_widths must be integer"),
        (([40, 40], [[44], [44, 44]]), "source_widths is no array"),
    ],
)
def test_sources_that_do_not_fit_are_refused(sources, message):
    if isinstance(sources, tuple):
        sources = dict(zip(("source_heights", "source_widths"), sources, strict=True))
    spec = PatchSpec(capacity=2, max_height=28, max_width=28)
    for shape in ((4, 40, 44, 3), (4, 3, 40, 44)):
        with pytest.raises(ValueError, match=message):
            resize_patchify(np.zeros(shape, np.uint8), [28, 28], [28, 28], spec, **sources)


def test_sources_of_an_absent_unit_may_be_known_and_empty():
    spec = PatchSpec(capacity=1, max_height=28, max_width=28, **LEVELS)
    sources = {"source_heights": [31, 0], "source_widths": [17, 99]}
    frames = picture(np.random.default_rng(10), 4, 40, 44, 3)
    got = resize_patchify(frames, [28, 0], [28, 0], spec, **sources)
    want = expected(frames, [28, 0], [28, 0], spec, ([31, 1], [17, 1]))
    np.testing.assert_allclose(got.patches, want, atol=0.02)
    assert not got.overflow
    with pytest.raises(ValueError, match="source_widths must be from 1 to 44, got 99"):
        resize_patchify(frames, [0, 28], [0, 28], spec, **sources | {"source_heights": [40, 40]})


def test_the_layout_keeps_sources_within_the_canvas():
    """Those of absent units too, so that no backend computes with another."""
    run = partial(lay_out, canvas=(40, 44), spec=PatchSpec(capacity=1, max_height=28, max_width=28))
    with jax.enable_x64(True):
        sizes = (jnp.array([[28, 0, 0]]),) * 2
        heights, widths = jnp.array([[31, 0, 2**40]]), jnp.array([[44, -5, 45]])
        layout, overflow = run(sizes, (heights, widths))
        assert [x.tolist() for x in layout.sources] == [[[31, 1, 1]], [[44, 1, 44]]]
        assert not overflow
        # In 32 bits this would be 31.
        assert run(sizes, (heights + 2**32, widths))[1]
