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
LENGTHS = [
    ([1, 2, 3, 0], [30, 70, 60, 40]),
    ([1, 2, 0], [120, 72, 8]),
    ([0, 1], [5, 195]),
    ([1, 2, 3, 4, 5], [40] * 5),
]
IDS = np.stack([np.repeat(*row) for row in LENGTHS + LENGTHS[::-1]])
KERNELS = [Backend.SPLASH, Backend.PALLAS_GPU]
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


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


def heads(length=200, batch=8):
    """Queries, keys and values [B H P D] of four heads that share two, and a cotangent."""
    rng = np.random.default_rng(0)
    shapes = [(batch, *n, 32) for n in ((4, length), (2, 200), (2, 200), (4, length))]
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def packed():
    return Places.of_segments(jnp.asarray(IDS))


def later(start=60):
    """Queries that come after keys which a cache has, and see no later ones."""
    slots, ids = jnp.arange(200), jnp.asarray(IDS)
    return Places(ids[:, start:], ids, slots[start:], slots)


def with_gradients(attend):
    """Result and gradients of a function of queries, keys, values and more, from a cotangent."""

    @jax.jit
    def run(query, key, value, cotangent, *more):
        out, transpose = jax.vjp(lambda *x: attend(*x, *more), query, key, value)
        return out, *transpose(cotangent)

    return run


def in_rows(backend, **axes):
    """Rows as an axis of the arrays."""
    return partial(attend_in_places, backend=backend, **axes)


def by_vmap(backend, rows=None, **axes):
    """Rows of a vmap, as a tower has them."""
    one = partial(attend_within_segments, backend=backend, **axes)

    def attend(query, key, value, ids):
        packed = (x.swapaxes(1, 2) for x in (query, key, value))
        return jax.vmap(one, spmd_axis_name=rows)(*packed, ids).swapaxes(1, 2)

    return attend


def on(mesh, tree, *axes):
    return jax.device_put(tree, NamedSharding(mesh, P(*axes)))


def placed_on(mesh, places):
    slots = on(mesh, (places.query_slot, places.key_slot))
    return Places(*on(mesh, (places.query_segment, places.key_segment), ROWS), *slots)


def assert_same(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("backend", [Backend.AUTO, Backend.BLOCKWISE, *KERNELS])
@pytest.mark.parametrize("how", ["packed", "later", "mapped"])
def test_no_device_needs_rows_or_heads_of_another(mesh, backend, how):
    places = later() if how == "later" else packed()
    arrays = heads(places.query_slot.size)
    wanted = with_gradients(in_rows(Backend.DENSE))(*arrays, places)
    if how == "mapped":
        run, extra = by_vmap(backend, rows=ROWS, head_axis=HEADS), on(mesh, IDS, ROWS)
    else:
        run = in_rows(backend, batch_axes=ROWS, head_axis=HEADS)
        extra = placed_on(mesh, places)
    run = with_gradients(run)
    with jax.set_mesh(mesh):
        placed = on(mesh, arrays, ROWS, HEADS)
        assert "shard_map" in str(jax.make_jaxpr(run)(*placed, extra))
        found = run(*placed, extra)
        text = run.lower(*placed, extra).compile().as_text()
    assert_same(found, wanted)
    for ours in found:
        assert ours.sharding.is_equivalent_to(placed[0].sharding, 4)
    assert not any(name in text for name in COLLECTIVES)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("of_vmap", [False, True])
def test_without_axes_a_kernel_gathers(mesh, backend, of_vmap):
    """What the axes are for: the check above can fail. What comes out is the same."""
    arrays = heads()
    run = with_gradients(by_vmap(backend, head_axis=HEADS) if of_vmap else in_rows(backend))
    extra = jnp.asarray(IDS) if of_vmap else packed()
    with jax.set_mesh(mesh):
        placed = on(mesh, arrays, ROWS, HEADS)
        assert "all-gather" in run.lower(*placed, extra).compile().as_text()
        found = run(*placed, extra)
    assert_same(found, with_gradients(in_rows(Backend.DENSE))(*arrays, packed()))


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize(
    "kept", ["everything_saveable", "dots_with_no_batch_dims_saveable", "nothing_saveable"]
)
def test_layers_of_a_tower(mesh, backend, kept):
    """Rows that a vmap maps over layers that a scan goes through, whatever those keep."""
    arrays, policy = heads(), getattr(jax.checkpoint_policies, kept)

    def tower(backend, rows=None, **axes):
        attend = by_vmap(backend, rows, **axes)

        def run(query, key, value, ids):
            def layer(x, _):
                return x + attend(x, key, value, ids), None

            layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
            return jax.lax.scan(layer, query, length=2)[0]

        return with_gradients(run)

    wanted = tower(Backend.DENSE)(*arrays, IDS)
    with jax.set_mesh(mesh):
        found = tower(backend, rows=ROWS, head_axis=HEADS)(*on(mesh, arrays, ROWS, HEADS), IDS)
    assert_same(found, wanted)


def test_what_a_gradient_keeps_may_be_moved(mesh):
    """It says where it lies: each row's is found again once it has been to the host and back."""
    *arrays, cotangent = heads()
    attend = by_vmap(Backend.PALLAS_GPU, rows=ROWS, head_axis=HEADS)
    with jax.set_mesh(mesh):
        _, transpose = jax.vjp(lambda *x: attend(*x, IDS), *on(mesh, arrays, ROWS, HEADS))
        moved = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), transpose)
        found = moved(on(mesh, cotangent, ROWS, HEADS))
    wanted = with_gradients(in_rows(Backend.DENSE))(*arrays, cotangent, packed())
    assert_same(found, wanted[1:])


def test_one_row(mesh):
    """Heads are split, and of the rest every device has the same."""
    arrays = heads(batch=1)
    attend = partial(attend_within_segments, backend=Backend.SPLASH, head_axis=HEADS)

    def run(query, key, value, ids):
        return attend(*(x[0].swapaxes(0, 1) for x in (query, key, value)), ids).swapaxes(0, 1)[None]

    with jax.set_mesh(mesh):
        found = with_gradients(run)(*on(mesh, arrays, None, HEADS), jnp.asarray(IDS[0]))
    places = Places.of_segments(jnp.asarray(IDS[:1]))
    assert_same(found, with_gradients(in_rows(Backend.DENSE))(*arrays, places))


def test_heads_that_the_axis_does_not_divide(mesh):
    """XLA splits the call, and knows how to; the same where the rows do not fit."""
    query, key, value, _ = heads()
    cases = (
        (slice(None), (query, key[:, :1], value[:, :1])),
        (slice(6), (query[:6], key[:6], value[:6])),
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
    places, arrays = packed(), heads()[:3]
    run = partial(attend_in_places, places=places, batch_axes=("data",), head_axis=head_axis)
    with jax.set_mesh(mesh):
        assert "shard_map" in str(jax.make_jaxpr(run)(*arrays))
        found = jax.jit(run)(*on(mesh, arrays, "data"))
    np.testing.assert_allclose(found, attend_in_places(*arrays, places, Backend.DENSE), atol=2e-5)


def test_single_queries_are_left_to_xla(mesh):
    """Decoding: a cache stays where it lies without help."""
    query, key, value, _ = heads()
    ones = jnp.ones((8, 200), jnp.int32)
    places = Places(ones[:, :1], ones, jnp.full(1, 199), jnp.arange(200))
    run = partial(attend_in_places, places=places, batch_axes=ROWS, head_axis=HEADS)
    with jax.set_mesh(mesh):
        assert "shard_map" not in str(jax.make_jaxpr(run)(query[:, :, :1], key, value))


@pytest.fixture
def chosen(monkeypatch):
    """What runs of the backends, with the shape of its queries; none computes anything."""
    calls = []
    for name in ("attend_splash", "attend_pallas_gpu", "attend_blockwise"):

        def record(query, key, value, places, *, name=name, **options):
            calls.append((name, query.shape))
            return query

        monkeypatch.setattr(api, name, record)
    monkeypatch.setattr(backends, "old_gpu", lambda: None)
    return calls


PLATFORMS = [("tpu", "attend_splash"), ("gpu", "attend_pallas_gpu")]


@pytest.mark.parametrize("platform, kernel", PLATFORMS)
def test_auto_is_the_kernel_where_each_device_has_its_own(
    mesh, monkeypatch, chosen, platform, kernel
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    x, ids = jnp.zeros((8, 2, 400, 64)), jnp.ones((8, 400), jnp.int32)
    places = Places.of_segments(ids)
    with jax.set_mesh(mesh):
        attend_in_places(x, x, x, places)
        attend_in_places(x, x, x, places, batch_axes=ROWS, head_axis=HEADS)
        by_vmap(None, rows=ROWS, head_axis=HEADS)(x, x, x, ids)
    whole, part, of_row = chosen
    assert whole == ("attend_blockwise", (8, 2, 400, 64))  # which XLA splits
    assert part == (kernel, (2, 1, 400, 64))  # 8 rows over 2 x 2 devices, 2 heads over 2
    assert of_row == (kernel, (1, 1, 400, 64))
