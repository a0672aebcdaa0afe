"""Attention on meshes of eight devices: that of one, each device with its own rows and heads."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kernels.segment_attention import (
    Backend,
    Places,
    api,
    attend_in_places,
    attend_within_segments,
    backends,
)
from kernels.segment_attention.pallas_gpu import Tile, Tiles, attend_pallas_gpu
from kernels.segment_attention.splash import attend_splash

ROWS, HEADS = ("data", "fsdp"), "tensor"
IDS = np.stack(
    [
        np.repeat([1, 2, 3, 0], [30, 70, 60, 40]),
        np.repeat([1, 2, 0], [120, 72, 8]),
        np.repeat([0, 1], [5, 195]),
        np.repeat([1, 2, 3, 4, 5], [40] * 5),
    ]
)
KERNELS = [Backend.SPLASH, Backend.PALLAS_GPU]
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Kernels in small blocks, by the interpreter."""
    in_blocks = partial(attend_splash, block=128, interpret=True)
    monkeypatch.setattr(api, "attend_splash", in_blocks)
    tiles = Tiles(*[Tile(64, 64, 4, 2)] * 3)
    in_tiles = partial(attend_pallas_gpu, tiles=tiles, interpret=True)
    monkeypatch.setattr(api, "attend_pallas_gpu", in_tiles)


@pytest.fixture
def mesh():
    return jax.make_mesh((2, 2, 2), (*ROWS, HEADS), axis_types=(AxisType.Auto,) * 3)


def heads(dim=32):
    """Queries, keys and values [B H P D] of four heads that share two, and a cotangent."""
    rng = np.random.default_rng(0)
    shapes = [(4, count, 200, dim) for count in (4, 2, 2, 4)]
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def in_rows(backend, places, **axes):
    """Rows as an axis of the arrays: result and gradients, from a cotangent."""

    @jax.jit
    def run(query, key, value, cotangent):
        attend = partial(attend_in_places, places=places, backend=backend, **axes)
        out, transpose = jax.vjp(attend, query, key, value)
        return out, *transpose(cotangent)

    return run


def by_vmap(backend, **axes):
    """Rows of a vmap, as a tower has them."""

    @jax.jit
    def run(query, key, value, cotangent):
        def attend(query, key, value):
            one = partial(attend_within_segments, backend=backend, **axes)
            rows = (x.swapaxes(1, 2) for x in (query, key, value))
            return jax.vmap(one, spmd_axis_name=ROWS if axes else None)(*rows, IDS).swapaxes(1, 2)

        out, transpose = jax.vjp(attend, query, key, value)
        return out, *transpose(cotangent)

    return run


def on(mesh, arrays, *axes):
    return [jax.device_put(x, NamedSharding(mesh, P(*axes))) for x in arrays]


@pytest.mark.parametrize("backend", [Backend.AUTO, Backend.BLOCKWISE, *KERNELS])
@pytest.mark.parametrize("of_vmap", [False, True])
def test_no_device_needs_rows_or_heads_of_another(mesh, backend, of_vmap):
    places, arrays = Places.of_segments(jnp.asarray(IDS)), heads()
    wanted = in_rows(Backend.DENSE, places)(*arrays)
    if of_vmap:
        run = by_vmap(backend, head_axis=HEADS)
    else:
        run = in_rows(backend, places, batch_axes=ROWS, head_axis=HEADS)
    with jax.set_mesh(mesh):
        placed = on(mesh, arrays, ROWS, HEADS)
        found = run(*placed)
        text = run.lower(*placed).compile().as_text()
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
        assert ours.sharding.is_equivalent_to(placed[0].sharding, 4)
    assert not any(name in text for name in COLLECTIVES)


def test_without_axes_a_kernel_gathers(mesh):
    """What the axes are for: the check above can fail."""
    places, arrays = Places.of_segments(jnp.asarray(IDS)), heads()
    with jax.set_mesh(mesh):
        run = in_rows(Backend.PALLAS_GPU, places)
        text = run.lower(*on(mesh, arrays, ROWS, HEADS)).compile().as_text()
    assert "all-gather" in text


def test_heads_that_the_axis_does_not_divide(mesh):
    """XLA splits the call, and knows how to; the same where the rows do not fit."""
    query, key, value, _ = heads()
    cases = (
        (slice(None), (query[:, :3], key[:, :1], value[:, :1])),
        (slice(3), (query[:3], key[:3], value[:3])),
    )
    for rows, arrays in cases:
        places = Places.of_segments(jnp.asarray(IDS[rows]))
        run = partial(attend_in_places, places=places, batch_axes=ROWS, head_axis=HEADS)
        with jax.set_mesh(mesh):
            assert "shard_map" not in str(jax.make_jaxpr(run)(*arrays))
            found = jax.jit(run)(*arrays)
        wanted = attend_in_places(*arrays, places, Backend.DENSE)
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("head_axis", [HEADS, None])
def test_a_mesh_without_the_axis_of_heads(head_axis):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    places, arrays = Places.of_segments(jnp.asarray(IDS)), heads()[:3]
    run = partial(attend_in_places, places=places, batch_axes=("data",), head_axis=head_axis)
    with jax.set_mesh(mesh):
        assert "shard_map" in str(jax.make_jaxpr(run)(*arrays))
        found = jax.jit(run)(*on(mesh, arrays, "data"))
    np.testing.assert_allclose(found, attend_in_places(*arrays, places, Backend.DENSE), atol=2e-5)


def test_single_queries_are_left_to_xla(mesh):
    """Decoding: a cache stays where it lies without help."""
    query, key, value, _ = heads()
    ones = jnp.ones((4, 200), jnp.int32)
    places = Places(ones[:, :1], ones, jnp.full(1, 199), jnp.arange(200))
    run = partial(attend_in_places, places=places, batch_axes=ROWS, head_axis=HEADS)
    with jax.set_mesh(mesh):
        assert "shard_map" not in str(jax.make_jaxpr(run)(query[:, :, :1], key, value))


@pytest.mark.parametrize("platform, kernel", list(zip(("tpu", "gpu"), KERNELS, strict=True)))
def test_a_kernel_is_chosen_for_a_device_s_own_part(mesh, monkeypatch, platform, kernel):
    """On eight devices XLA's blocks, but inside of what is split the kernel of one."""
    monkeypatch.setattr(backends, "_old_device", lambda: None)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    chosen = []

    def choose(query):
        chosen.append(backends.resolve(Backend.AUTO, query, query))
        return query

    x = jnp.zeros((8, 2, 400, 64))
    with jax.set_mesh(mesh):
        choose(x)
        jax.make_jaxpr(jax.shard_map(choose, in_specs=P(ROWS), out_specs=P(ROWS)))(x)
    assert chosen == [Backend.BLOCKWISE, kernel]
