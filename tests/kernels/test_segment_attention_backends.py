"""Every implementation of attention that this machine has, held against one definition.

Splash is a kernel for TPUs: its interpreter runs it here. What only another device can run is
compiled or lowered for it.
"""

import importlib.util
import os
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

from kernels.segment_attention import (
    Backend,
    Places,
    api,
    attend_in_places,
    attend_within_segments,
    backends,
    splash,
)
from kernels.segment_attention.blockwise import attend_blockwise
from kernels.segment_attention.splash import attend_splash

PLATFORM = jax.default_backend()


def absent(backend):
    """Why this machine cannot run it."""
    if backend is Backend.CUDNN and PLATFORM != "gpu":
        return "cuDNN needs a CUDA device"
    if backend is Backend.TOKAMAX and importlib.util.find_spec("tokamax") is None:
        return "tokamax is not installed"
    return None


def mark(backend):
    reason = absent(backend)
    return pytest.param(backend, marks=pytest.mark.skipif(bool(reason), reason=str(reason)))


EVERY = [mark(backend) for backend in Backend]


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Splash in small blocks, several to a sequence, and by the interpreter where it must be."""
    in_blocks = partial(attend_splash, block=128, interpret=PLATFORM != "tpu")
    monkeypatch.setattr(api, "attend_splash", in_blocks)


def definition(query, key, value, visible):
    """The formula; 0 where nothing is seen."""
    key, value = (jnp.repeat(x, query.shape[1] // x.shape[1], axis=1) for x in (key, value))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
    scores = jnp.where(visible[:, None], scores, -jnp.inf)
    weights = jnp.exp(scores - jnp.where(visible, 0.0, -1e30).max(-1)[:, None, :, None])
    total = weights.sum(axis=-1, keepdims=True)
    return jnp.einsum("bhqk,bhkd->bhqd", weights / jnp.where(total > 0, total, 1.0), value)


def packed():
    """Segments of unequal lengths, another packing in each row, padding at the end and between."""
    ids = np.zeros((2, 200), np.int32)
    ids[0] = np.repeat([1, 2, 3, 4, 5, 0], [3, 60, 1, 90, 26, 20])
    ids[1] = np.repeat([0, 1, 0, 2], [5, 120, 7, 68])
    places = Places.of_segments(jnp.asarray(ids))
    return places, (ids[:, :, None] == ids[:, None, :]) & (ids[:, None, :] != 0)


def chunk():
    """A causal chunk of 60 queries over a cache of 200 slots, the last 10 of them still empty."""
    keys = np.ones((2, 200), np.int32)
    keys[1, :150] = 0  # the second row is short: padding in front, 10 of it in the chunk
    keys[1, 130:140] = 1
    keys[:, 190:] = 0
    slots = np.arange(200)
    at = np.arange(130, 190)
    places = Places(*map(jnp.asarray, (keys[:, at], keys, at, slots)))
    visible = (keys[:, at][:, :, None] != 0) & (keys[:, None, :] != 0)
    return places, visible & (slots[None, :] <= at[:, None])


CASES = {"packed": packed(), "chunk": chunk()}


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize(
    "case, dim", [("packed", 80), ("chunk", 64), ("chunk", 72), ("chunk", 128)]
)
def test_values_and_gradients(backend, case, dim):
    places, visible = CASES[case]
    rng = np.random.default_rng(dim)
    shapes = [(2, 4, visible.shape[1], dim)] + 2 * [(2, 2, visible.shape[2], dim)]
    query, key, value, weight = (rng.normal(size=shape) for shape in [*shapes, shapes[0]])
    weight *= visible.any(-1)[:, None, :, None]  # what sees nothing may come out as anything
    dtype, unit = jnp.float32, 2e-6
    if backend is Backend.CUDNN:
        dtype, unit = jnp.bfloat16, 2**-8
    query, key, value = (jnp.asarray(x, dtype) for x in (query, key, value))
    present = (places.key_segment != 0)[:, None, :, None]
    poisoned = [jnp.where(present, x, jnp.nan) for x in (key, value)]

    def run(attend, *arrays):
        def loss(*arrays):
            out = attend(*arrays)
            return (out.astype(jnp.float32) * weight).sum(), out

        gradients, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
        return out, *gradients

    attend = partial(attend_in_places, places=places, backend=backend)
    got = run(attend, query, *poisoned)
    wanted = run(
        partial(definition, visible=visible), *(x.astype(jnp.float32) for x in (query, key, value))
    )
    seeing = np.broadcast_to(visible.any(-1)[:, None, :, None], query.shape)
    assert got[0].dtype == dtype and np.isfinite(got[0]).all()
    np.testing.assert_allclose(got[0][seeing], wanted[0][seeing], atol=4 * unit)
    for x, y in zip(got[1:], wanted[1:], strict=True):
        np.testing.assert_allclose(x, y, atol=unit * float(np.abs(y).max()) * 4)


@pytest.mark.parametrize("backend", EVERY)
def test_one_query_over_a_cache(backend):
    """A step of generation: the cache is longer than the queries, its end still empty."""
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=s), jnp.float32)
                         for s in ((2, 4, 1, 72), (2, 2, 50, 72), (2, 2, 50, 72)))  # fmt: skip
    filled = np.broadcast_to(np.arange(50) <= 40, (2, 50)) & (np.arange(50) >= [[0], [9]])
    places = Places(
        jnp.ones((2, 1), jnp.int32), jnp.asarray(filled, jnp.int32), jnp.array([40]), jnp.arange(50)
    )
    if backend is Backend.CUDNN:
        query, key, value = (x.astype(jnp.bfloat16) for x in (query, key, value))
    out = jax.jit(partial(attend_in_places, backend=backend))(query, key, value, places)
    wanted = definition(query, key, value, filled[:, None, :])
    np.testing.assert_allclose(out, wanted, atol=2**-6 if backend is Backend.CUDNN else 1e-5)


@pytest.mark.parametrize("backend", EVERY)
def test_segments_of_a_tower(backend):
    rng = np.random.default_rng(0)
    dtype = jnp.bfloat16 if backend is Backend.CUDNN else jnp.float32
    query, key, value = (jnp.asarray(rng.normal(size=(40, 2, 8)), dtype) for _ in range(3))
    ids = jnp.asarray(np.repeat([1, 2, 3, 4, 0], [3, 8, 7, 8, 14]))
    out = jax.jit(partial(attend_within_segments, backend=backend))(query, key, value, ids)
    for segment in range(1, 5):
        at = np.flatnonzero(ids == segment)
        heads = (x[at].swapaxes(0, 1)[None].astype(jnp.float32) for x in (query, key, value))
        wanted = definition(*heads, np.ones((1, len(at), len(at)), bool))[0].swapaxes(0, 1)
        np.testing.assert_allclose(
            out[at], wanted, atol=2**-6 if backend is Backend.CUDNN else 1e-5
        )


def test_splash_skips_blocks_without_a_visible_key(monkeypatch):
    # Four segments of a block each, in which the kernel itself compares no ids.
    ids = jnp.asarray(np.repeat(np.arange(1, 5), 128))[None]
    blocks = Places.of_segments(ids).visible_blocks(128, 128)
    np.testing.assert_array_equal(blocks[0], np.eye(4, dtype=bool))
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(1, 1, 512, 8)), jnp.float32) for _ in "qkv")

    def blind(query_segment, key_segment):
        return honest(jnp.zeros_like(query_segment), jnp.zeros_like(key_segment))

    honest = splash.splash.SegmentIds
    monkeypatch.setattr(splash.splash, "SegmentIds", blind)
    run = jax.jit(partial(attend_splash, block=128, interpret=True))
    out = run(query, key, value, Places.of_segments(ids))
    wanted = definition(query, key, value, ids[:, :, None] == ids[:, None, :])
    np.testing.assert_allclose(out, wanted, atol=1e-5)


def shapes(dim, dtype=jnp.bfloat16, sharding=None):
    """Of a call with lengths that are no multiples of anything."""
    new = partial(jax.ShapeDtypeStruct, sharding=sharding)
    places = [new(shape, jnp.int32) for shape in ((2, 201), (2, 301), (201,), (301,))]
    key = new((2, 2, 301, dim), dtype)
    return new((2, 4, 201, dim), dtype), key, key, Places(*places)


@jax.default_matmul_precision("default")  # a TPU's kernels refuse exact products of bfloat16
def lowered(attend, platform, arguments):
    def loss(*arguments):
        return attend(*arguments).astype(jnp.float32).sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    return gradients.trace(*arguments).lower(lowering_platforms=(platform,))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_blocks_need_no_vendor_library(platform):
    assert "custom_call" not in lowered(attend_blockwise, platform, shapes(72)).as_text()


def test_splash_is_three_kernels_on_a_tpu():
    text = lowered(attend_splash, "tpu", shapes(72)).as_text()
    # The forward pass, the gradient of queries, that of keys and values; heads in whole lanes.
    assert text.count("@tpu_custom_call") == 3
    assert "tensor<4x256x128xbf16>" in text


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("dim", [64, 72, 80, 128])
def test_splash_compiles_for_a_tpu(dim, monkeypatch):
    for name in ("ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_SKIP_MDS_QUERY"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    one_chip = {"topology_name": "v5e:1x1", "chips_per_host_bounds": [1, 1, 1]}
    topology = topologies.get_topology_desc(platform="tpu", **one_chip)
    mesh = jax.sharding.Mesh(np.array(topology.devices), ("data",))
    arguments = shapes(dim, sharding=jax.NamedSharding(mesh, jax.P()))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered(attend_splash, "tpu", arguments).compile()


@pytest.mark.parametrize("dim, padded", [(72, 72), (80, 80), (100, 104)])
def test_cudnn_gets_head_sizes_and_lengths_that_it_takes(dim, padded, monkeypatch):
    # JAX asks the library for its version before it lowers anything.
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    attend = partial(attend_in_places, backend=Backend.CUDNN)
    text = lowered(attend, "cuda", shapes(dim)).as_text()
    assert "__cudnn$fmhaScaleBiasSoftmax(" in text
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward(" in text
    assert f"tensor<2x208x4x{padded}xbf16>" in text and f"tensor<2x304x2x{padded}xbf16>" in text
    assert f"fmha_scale\\22: {dim**-0.5}" in text


def test_cudnn_refuses_float32():
    arrays = [jnp.zeros((1, 1, 8, 64))] * 3
    places = Places.of_segments(jnp.ones((1, 8), jnp.int32))
    with pytest.raises(ValueError, match="bfloat16 or float16, not float32"):
        attend_in_places(*arrays, places, Backend.CUDNN)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokamax", None)
    arrays = [jnp.zeros((1, 1, 8, 64))] * 3
    places = Places.of_segments(jnp.ones((1, 8), jnp.int32))
    with pytest.raises(ValueError, match="needs the package tokamax"):
        attend_in_places(*arrays, places, Backend.TOKAMAX)


def test_automatic_choice(monkeypatch):
    """Dense while it is short; beyond, splash where a TPU is alone and in blocks elsewhere."""

    def chosen(length, slots):
        query, key = jnp.zeros((1, 2, length, 8)), jnp.zeros((1, 2, slots, 8))
        return backends._automatic(query, key)

    for backend, devices, long in (
        ("cpu", 1, Backend.BLOCKWISE),
        ("gpu", 1, Backend.BLOCKWISE),
        ("tpu", 1, Backend.SPLASH),
        ("tpu", 8, Backend.BLOCKWISE),
    ):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        assert chosen(385, 384) is long
        assert chosen(384, 384) is chosen(1, 100_000) is Backend.DENSE
