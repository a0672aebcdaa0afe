"""Every implementation of attention that this machine has, held against one definition.

Kernels for TPUs and GPUs run here by their interpreters and are lowered for their devices;
tests/aot compiles them.
"""

import importlib.util
import sys
import warnings
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from kernels import choice
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
from kernels.segment_attention.pallas_gpu import Tile, Tiles, attend_pallas_gpu
from kernels.segment_attention.places import pad_keys, pad_queries
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


def dtype_and_unit(backend, dim):
    """What to compute with, and its rounding; the GPU's kernel has one form for each precision."""
    if backend is Backend.CUDNN or (backend is Backend.PALLAS_GPU and dim in (72, 80)):
        return jnp.bfloat16, 2**-8
    return jnp.float32, 2e-6


TILES = Tiles(Tile(64, 32, 4, 2), Tile(32, 64, 4, 2), Tile(32, 64, 4, 2))
EVERY = [mark(backend) for backend in Backend]


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Kernels in small blocks, several to a sequence, and by the interpreter where they must be."""
    in_blocks = partial(attend_splash, block=128, interpret=PLATFORM != "tpu")
    monkeypatch.setattr(api, "attend_splash", in_blocks)
    in_tiles = partial(attend_pallas_gpu, tiles=TILES, interpret=PLATFORM != "gpu")
    monkeypatch.setattr(api, "attend_pallas_gpu", in_tiles)


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


# What the lowering asks of a device, for want of one.
H100 = AbstractMesh(
    (1,),
    ("data",),
    axis_types=(AxisType.Auto,),
    abstract_device=AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu"),
)
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
    dtype, unit = dtype_and_unit(backend, dim)
    query, key, value = (jnp.asarray(x, dtype) for x in (query, key, value))
    present = (places.key_segment != 0)[:, None, :, None]
    seeing = visible.any(-1)[:, None, :, None]
    poisoned = [jnp.where(present, x, jnp.nan) for x in (key, value)]
    asking = jnp.where((places.query_segment != 0)[:, None, :, None], query, jnp.nan)

    def run(attend, *arrays):
        def loss(*arrays):
            out = attend(*arrays)
            return (out.astype(jnp.float32) * weight).sum(), out

        gradients, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
        return out, *gradients

    attend = partial(attend_in_places, places=places, backend=backend)
    got = run(attend, asking, *poisoned)
    wanted = run(
        partial(definition, visible=visible), *(x.astype(jnp.float32) for x in (query, key, value))
    )
    assert got[0].dtype == dtype and not np.any(got[0][~np.broadcast_to(seeing, query.shape)])
    np.testing.assert_allclose(got[0], wanted[0], atol=4 * unit)
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


def test_padding_leaves_causal_blocks_in_time():
    """45 positions in blocks of 16: the last three keys are padding, and none of them is early."""
    x, there, slots = jnp.zeros((1, 1, 45, 8)), jnp.ones((1, 45), jnp.int32), jnp.arange(45)
    _, places = pad_queries(x, Places(there, there, slots, slots), 3)
    _, _, places = pad_keys(x, x, places, 3)
    blocks = places.visible_blocks(16, 16)
    np.testing.assert_array_equal(blocks[0], np.tril(np.ones((3, 3), bool)))


def test_splash_rounds_queries_and_not_their_scale():
    """Rounded, 72^-½ is .14 % too small; the products' own errors nearly cancel over an octave."""
    octave = jnp.arange(128, 256).astype(jnp.bfloat16)
    query = jnp.broadcast_to(octave[:, None], (128, 72))
    ratio = np.asarray(splash.scaled(query), np.float64) * 72**0.5 / np.arange(128, 256)[:, None]
    assert abs(ratio.mean() - 1) < 2e-4


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


def test_the_gpu_kernels_visit_no_block_without_a_visible_key():
    """Four segments of a block each, one of them NaN: a weight of 0 would carry it over."""
    ids = jnp.asarray(np.repeat(np.arange(1, 5), 64))[None]
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(1, 1, 256, 16)), jnp.float32) for _ in "qkv"]
    tiles = Tiles(*[Tile(32, 64, 4, 2)] * 3)

    @jax.jit
    def run(*arrays):
        def loss(*arrays):
            return attend_pallas_gpu(
                *arrays, Places.of_segments(ids), tiles=tiles, interpret=PLATFORM != "gpu"
            ).sum()

        return jax.value_and_grad(loss, argnums=(0, 1, 2))(*arrays)[1]

    bad = (ids == 2)[:, None, :, None]
    dirty = run(*(jnp.where(bad, jnp.nan, x) for x in arrays))
    for x, y in zip(run(*arrays), dirty, strict=True):
        np.testing.assert_array_equal(np.isnan(y), np.broadcast_to(bad, y.shape))
        np.testing.assert_array_equal(np.where(bad, 0, x), np.where(bad, 0, y))


def shapes(dim, dtype=jnp.bfloat16):
    """Of a call with lengths that are no multiples of anything."""
    new = jax.ShapeDtypeStruct
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


@pytest.mark.parametrize(
    "dtype, padded", [(jnp.bfloat16, "8x256x80xbf16"), (jnp.float32, "8x224x128xf32")]
)
def test_pallas_gpu_is_three_kernels_on_a_gpu(dtype, padded):
    arguments = shapes(72, dtype)
    with jax.sharding.use_abstract_mesh(H100):
        text = lowered(attend_pallas_gpu, "cuda", arguments).as_text()
    # The forward pass, the gradient of queries, that of keys and values; heads in whole pieces.
    assert text.count("__gpu$xla.gpu.triton") == 3
    assert f"tensor<{padded}>" in text


def test_a_batch_of_towers_lowers_for_a_gpu():
    """The models map their towers over a batch; it is one launch of each kernel."""
    x = jax.ShapeDtypeStruct((3, 1, 2, 200, 80), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((3, 1, 200), jnp.int32)

    @jax.vmap
    def towers(query, key, value, ids):
        return attend_pallas_gpu(query, key, value, Places.of_segments(ids))

    with jax.sharding.use_abstract_mesh(H100):
        text = lowered(towers, "cuda", (x, x, x, ids)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == 3


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
    """Dense while it is short; beyond, the device's kernel, but in blocks where XLA splits."""

    def chosen(length, slots, dim=80):
        query, key = jnp.zeros((1, 2, length, dim)), jnp.zeros((1, 2, slots, dim))
        return backends.resolve(Backend.AUTO, query, key)

    monkeypatch.setattr(backends, "old_gpu", lambda: None)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    for platform, long in (
        ("cpu", Backend.BLOCKWISE),
        ("gpu", Backend.PALLAS_GPU),
        ("tpu", Backend.SPLASH),
    ):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        assert chosen(385, 384) is long
        assert chosen(384, 384) is chosen(1, 100_000) is Backend.DENSE
        with jax.set_mesh(mesh):
            assert chosen(385, 384) is Backend.BLOCKWISE
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen(385, 384, dim=256) is Backend.BLOCKWISE


@pytest.mark.parametrize("capability, fits", [("9.0", True), ("12.1", True), ("7.5", False)])
def test_an_old_gpu_is_told_of_once(monkeypatch, capability, fits):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    choice.warn_once.cache_clear()
    x = jnp.zeros((1, 1, 400, 64))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chosen = {backends.resolve(Backend.AUTO, x, x) for _ in range(3)}
    assert chosen == {Backend.PALLAS_GPU if fits else Backend.BLOCKWISE}
    assert len(caught) == (0 if fits else 1)
    assert fits or "compute capability is 7.5, not 8.0" in str(caught[0].message)


def test_a_jax_without_the_triton_lowering(monkeypatch):
    """Asked for by name it is an error; where it would have been chosen, blocks and a warning."""
    monkeypatch.delattr(pallas, "triton", raising=False)
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    arrays = [jnp.zeros((1, 1, 400, 64))] * 3
    places = Places.of_segments(jnp.ones((1, 400), jnp.int32))
    with pytest.raises(ValueError, match=f"jax {jax.__version__} has no Triton lowering of Pallas"):
        attend_in_places(*arrays, places, Backend.PALLAS_GPU)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    choice.warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="has no Triton lowering of Pallas"):
        assert backends.resolve(Backend.AUTO, *arrays[:2]) is Backend.BLOCKWISE


@pytest.mark.parametrize(
    "change, message",
    [
        ({"query": jnp.zeros((1, 3, 8, 16))}, "the heads of the query be a multiple"),
        ({"value": jnp.zeros((1, 2, 9, 16))}, "value \\[B, Hk, S, D\\]: got"),
        (
            {"key": jnp.zeros((1, 2, 8, 16), jnp.bfloat16)},
            "floating dtype, got float32, bfloat16",
        ),
        ({"places": Places.of_segments(jnp.ones((1, 9), int))}, "places.query_segment must be"),
        ({"places": Places.of_segments(jnp.ones((1, 8)))}, "integers \\(1, 8\\), got float32"),
    ],
)
def test_what_does_not_fit_together_is_named(change, message):
    x = jnp.zeros((1, 2, 8, 16))
    good = {"query": x, "key": x, "value": x, "places": Places.of_segments(jnp.ones((1, 8), int))}
    with pytest.raises(ValueError, match=message):
        attend_in_places(**good | change)
