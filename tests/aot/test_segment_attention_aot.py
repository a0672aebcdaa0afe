"""Attention compiled forward and backward for GPUs and TPUs; run by `make test-aot`."""

from functools import partial

import cuda
import jax
import jax.numpy as jnp
import pytest
import tpu

from kernels.segment_attention import Places
from kernels.segment_attention.blockwise import attend_blockwise
from kernels.segment_attention.pallas_gpu import HALF, Tile, attend_pallas_gpu
from kernels.segment_attention.splash import attend_splash

HEAD_SIZES = 64, 72, 80, 128


def shapes(dim, dtype=jnp.bfloat16, length=1000, slots=1500):
    """Grouped heads, two rows, lengths that are no multiples of anything."""
    new = jax.ShapeDtypeStruct
    places = Places(*(new(x, jnp.int32) for x in ((2, length), (2, slots), (length,), (slots,))))
    key = new((2, 2, slots, dim), dtype)
    return new((2, 4, length, dim), dtype), key, key, places


def both_ways(attend):
    """The result and the gradients of queries, keys and values."""

    def run(*arguments):
        def loss(*arguments):
            out = attend(*arguments)
            return out.astype(jnp.float32).sum(), out

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*arguments)

    return run


def codes(attend, arguments, folder):
    """Machine code of the three kernels of `pallas_gpu`."""
    cuda.compile(both_ways(attend), *arguments, dump=str(folder))
    texts = [path.read_text() for path in folder.glob("*.ptx")]
    for kernel in ("forward", "d_query", "d_key_value"):
        (ptx,) = (text for text in texts if f".entry _segment_attention_{kernel}(" in text)
        yield cuda.assembled(ptx)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("dim", HEAD_SIZES)
def test_pallas_gpu_spills_nothing_and_uses_tensor_cores(dim, dtype, tmp_path):
    for code in codes(attend_pallas_gpu, shapes(dim, dtype), tmp_path):
        assert code.spilled == 0
        assert code.instructions["HMMA"] + code.instructions["HGMMA"] > 0


def test_a_tile_too_large_for_the_registers_would_show(tmp_path):
    tiles = HALF._replace(d_key_value=Tile(64, 64, 4, 2))
    *_, code = codes(partial(attend_pallas_gpu, tiles=tiles), shapes(128), tmp_path)
    assert code.spilled > 0


@pytest.mark.parametrize("attend", [attend_pallas_gpu, attend_blockwise])
@pytest.mark.parametrize("dim", HEAD_SIZES)
def test_a_gpu_keeps_no_scores(attend, dim):
    program = cuda.compile(both_ways(attend), *shapes(dim, length=8000, slots=8000))
    scores = 2 * 4 * 8000**2 * 4
    assert program.memory_analysis().temp_size_in_bytes < scores / 8


@pytest.mark.parametrize("generation", tpu.TOPOLOGIES)
@pytest.mark.parametrize("dim", HEAD_SIZES)
def test_splash_compiles_for_a_tpu(generation, dim):
    program = tpu.compile(both_ways(attend_splash), *shapes(dim), mesh=tpu.mesh(generation))
    # The forward pass, the gradient of queries, that of keys and values.
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 3


@pytest.mark.parametrize("generation", tpu.TOPOLOGIES)
def test_blockwise_compiles_for_a_tpu(generation):
    program = tpu.compile(both_ways(attend_blockwise), *shapes(80), mesh=tpu.mesh(generation))
    assert "tpu_custom_call" not in program.as_text()
