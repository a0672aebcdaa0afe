"""resize_patchify compiled to the machine code of NVIDIA GPUs; run by `make test-aot`."""

import re
from functools import partial

import cuda
import jax
import jax.numpy as jnp
import pytest

from kernels.resize_patchify import (
    Backend,
    PatchSpec,
    resize_patchify,
    shard_resize_patchify,
    triton,
)
from kernels.resize_patchify.gpu_tiles import NUM_STAGES, NUM_WARPS
from kernels.resize_patchify.triton_kernel import kernel

FRAMES = {"448x448": (8, 448, 448), "720x1280": (8, 720, 1280)}
TYPES = {"uint8": "u8", "float32": "fp32", "bfloat16": "bf16"}

# Registers of a thread and instructions of tensor cores: 214 and 60, 247 and 120, and a tenth for
# other compilers, as far as there are registers.
MOST = {"normal": (235, 66), "high": (255, 132)}

every = pytest.mark.parametrize(
    ("size", "patch_size", "dtype", "precision"),
    [
        (size, patch_size, dtype, precision)
        for size in FRAMES
        for patch_size in (14, 16)
        for dtype in ("float32", "bfloat16")
        for precision in ("normal", "high")
    ],
)


def spec_of(patch_size, dtype, precision, **kwargs):
    side = 2 * patch_size
    bounds = {"max_height": 32 * side, "max_width": 56 * side}
    how = {"patch_size": patch_size, "dtype": dtype, "precision": precision}
    return PatchSpec(capacity=3072, **bounds, **how, **kwargs)


def shapes(size, *batch, channels_last=True, dtype=jnp.uint8):
    """Frames, heights, widths."""
    count, height, width = FRAMES[size]
    image = (height, width, 3) if channels_last else (3, height, width)
    sizes = jax.ShapeDtypeStruct((*batch, count // 2), jnp.int32)
    return jax.ShapeDtypeStruct((*batch, count, *image), dtype), sizes, sizes


def code_of(backend, frames, sizes, spec, *, capability=90, sources=False):
    if backend is Backend.PALLAS_GPU:

        def call(frames, heights, widths, *sources):
            given = dict(zip(("source_heights", "source_widths"), sources, strict=False))
            return resize_patchify(frames, heights, widths, spec, backend=backend, **given)

        arguments = frames, *[sizes] * (4 if sources else 2)
        return cuda.pallas_code(call, *arguments, kernel="resize_patchify")
    constants = triton.constants((1, *frames.shape), frames.dtype, spec, sources)
    types = "i32", TYPES[frames.dtype.name], {"float32": "fp32", "bfloat16": "bf16"}[spec.dtype]
    pointers = dict(zip(("table", "frames", "out"), (f"*{t}" for t in types), strict=True))
    options = {"num_warps": NUM_WARPS, "num_stages": NUM_STAGES, "enable_fp_fusion": True}
    return cuda.triton_code(kernel, pointers, constants, capability=capability, **options)


def check(code):
    assert code.spilled == 0
    assert code.instructions["HMMA"] + code.instructions["HGMMA"] > 0


@every
@pytest.mark.parametrize("backend", [Backend.PALLAS_GPU, Backend.TRITON])
def test_uses_tensor_cores_and_spills_nothing(backend, size, patch_size, dtype, precision):
    frames, sizes, _ = shapes(size)
    code = code_of(backend, frames, sizes, spec_of(patch_size, dtype, precision))
    check(code)
    registers, products = MOST[precision]
    assert code.registers <= registers and code.instructions["HMMA"] <= products


@pytest.mark.parametrize("precision", ["normal", "high"])
@pytest.mark.parametrize("patch_size", [14, 16])
@pytest.mark.parametrize("backend", [Backend.PALLAS_GPU, Backend.TRITON])
def test_frames_of_several_sizes(backend, patch_size, precision):
    frames, sizes, _ = shapes("720x1280")
    spec = spec_of(patch_size, "bfloat16", precision)
    code = code_of(backend, frames, sizes, spec, sources=True)
    check(code)
    registers, products = MOST[precision]
    assert code.registers <= registers and code.instructions["HMMA"] <= products


@pytest.mark.parametrize("precision", ["normal", "high"])
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_triton_on_each_architecture(capability, precision):
    frames, sizes, _ = shapes("448x448")
    spec = spec_of(14, "bfloat16", precision)
    check(code_of(Backend.TRITON, frames, sizes, spec, capability=capability))


@pytest.mark.parametrize("how", [{"filter": "bilinear"}, {"filter": "lanczos"},
                                 {"antialias": False}, {"rounding": "final"}])  # fmt: skip
@pytest.mark.parametrize("backend", [Backend.PALLAS_GPU, Backend.TRITON])
def test_filters_and_rounding(backend, how):
    frames, sizes, _ = shapes("448x448")
    code = code_of(backend, frames, sizes, spec_of(14, "bfloat16", "normal", **how))
    assert code.instructions["HMMA"] > 0 and code.spilled == 0


@pytest.mark.parametrize("sources", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("backend", [Backend.PALLAS_GPU, Backend.TRITON])
def test_float_frames(backend, dtype, sources):
    frames, sizes, _ = shapes("448x448", dtype=dtype)
    check(code_of(backend, frames, sizes, spec_of(14, "bfloat16", "high"), sources=sources))


@pytest.mark.parametrize("sources", [False, True])
@pytest.mark.parametrize("backend", [Backend.PALLAS_GPU, Backend.TRITON])
def test_channels_first_is_read_in_wide_loads(backend, sources):
    frames, sizes, _ = shapes("448x448", channels_last=False)
    code = code_of(backend, frames, sizes, spec_of(14, "bfloat16", "normal"), sources=sources)
    check(code)
    assert code.widths[8] == 0  # no load of a single pixel


@pytest.mark.parametrize("backend", [Backend.AUTO, Backend.PALLAS_GPU, Backend.TRITON])
def test_xla_compiles_the_call(backend):
    spec = spec_of(14, "bfloat16", "normal")
    frames, sizes, _ = shapes("720x1280")
    compiled = cuda.compile(
        partial(resize_patchify, spec=spec, backend=backend), *shapes("720x1280")
    )
    output = 2 * spec.capacity * 4 * spec.features
    memory = compiled.memory_analysis()
    assert output <= memory.output_size_in_bytes < output + 1024
    # Tables alone: a few integers a block.
    assert memory.temp_size_in_bytes < 64 * spec.capacity


@pytest.mark.parametrize("backend", [Backend.PALLAS_GPU, Backend.TRITON])
def test_eight_gpus_exchange_nothing(backend):
    spec = spec_of(14, "bfloat16", "normal")
    call = partial(shard_resize_patchify, spec=spec, mesh=cuda.mesh(8), backend=backend)
    text = cuda.compile(call, *shapes("448x448", 16), gpus=8).as_text()
    assert not re.search(r"all-(gather|reduce|to-all)|collective|reduce-scatter", text)
    # Two clips each, in one launch.
    assert len(re.findall(r"custom-call\(.*triton", text)) == 1
