"""The Mosaic kernel through the whole compiler: fits the memories, needs no other, stays short."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
import tpu

from kernels.resize_patchify import Backend, PatchSpec, resize_patchify, shard_resize_patchify

FRAMES = 128

generations = pytest.mark.parametrize("generation", tpu.TOPOLOGIES)

# The table, 16 bytes for each of a thousand programs, and what the compiler keeps for itself.
SMALL = 1 << 19

# Instruction words on v5e with frames of 448 x 448, and a tenth for other compilers: of 64 input
# rows through the vertical weights, 692; of four merge blocks with 128 of their input columns, 610
# and 525. Every 128 columns more are 158.
READ = 760
CHUNK = {14: 671, 16: 578}


def problem(height, width, *, batch=(), pixels=jnp.uint8, patch_size=14, **how):
    """A spec under which frames may keep their size, and shapes of frames and sizes."""
    side = 2 * patch_size
    rows, cols = -(-height // side), -(-width // side)
    spec = PatchSpec(
        capacity=FRAMES // 2 * min(rows * cols, 768),
        max_height=rows * side,
        max_width=cols * side,
        patch_size=patch_size,
        **how,
    )
    frames = jax.ShapeDtypeStruct((*batch, FRAMES, 3, height, width), pixels)
    sizes = jax.ShapeDtypeStruct((*batch, FRAMES // 2), jnp.int32)
    return spec, (frames, sizes, sizes)


def compiled(generation, *size, backend=None, sources=False, **how):
    spec, (frames, *sizes) = problem(*size, **how)

    def run(frames, heights, widths, *sources):
        given = dict(zip(("source_heights", "source_widths"), sources, strict=False))
        return resize_patchify(frames, heights, widths, spec, backend=backend, **given)

    sizes *= 2 if sources else 1
    return tpu.compile(run, frames, *sizes, mesh=tpu.mesh(generation))


def temporary(executable):
    return executable.memory_analysis().temp_size_in_bytes


@generations
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("patch_size", [14, 16])
@pytest.mark.parametrize("size", [(448, 448), (704, 1280)])
def test_nothing_but_frames_and_patches_is_in_memory(generation, size, patch_size, dtype):
    executable = compiled(generation, *size, patch_size=patch_size, dtype=dtype)
    assert temporary(executable) < SMALL
    # Chosen by `Backend.AUTO`: the platform is that of the compilation.
    assert executable.as_text().count('custom_call_target="tpu_custom_call"') == 1


@generations
@pytest.mark.parametrize("size", [(720, 1280), (1080, 1920)])
def test_heights_that_are_no_multiple_of_32(generation, size):
    assert temporary(compiled(generation, *size)) < SMALL


@generations
def test_float_frames(generation):
    assert temporary(compiled(generation, 1088, 1920, pixels=jnp.float32)) < SMALL


@generations
@pytest.mark.parametrize("pixels", [jnp.uint8, jnp.float32])
def test_frames_of_several_sizes(generation, pixels):
    executable = compiled(generation, 704, 1280, sources=True, pixels=pixels)
    assert temporary(executable) < SMALL
    assert executable.as_text().count('custom_call_target="tpu_custom_call"') == 1


@pytest.mark.parametrize(
    "how",
    [
        {"filter": "lanczos"},
        {"filter": "bilinear", "antialias": False},
        {"rounding": "final", "dtype": "float16"},
    ],
)
def test_other_filters_and_roundings(how):
    executable = compiled("v5e", 448, 448, **how)
    assert executable.memory_analysis().output_size_in_bytes > 0


@generations
def test_clips_on_eight_chips_need_no_collective(generation):
    mesh = tpu.mesh(generation, 8)
    spec, arguments = problem(448, 448, batch=(16,))
    run = partial(shard_resize_patchify, spec=spec, mesh=mesh, backend=Backend.PALLAS_TPU)
    executable = tpu.compile(run, *arguments, mesh=mesh, axes=("data",))
    text = executable.as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 1
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in text
    assert temporary(executable) < 2 * SMALL  # two clips a chip


@pytest.mark.parametrize("patch_size", CHUNK)
def test_the_schedule_stays_short(patch_size):
    program = f"import test_resize_tpu as t; t.compiled('v5e', 448, 448, patch_size={patch_size})"
    loops = tpu.loops(program, "resize_patchify")
    # Within the grid: reads, weights of a unit's chunks, chunks, tiles of zeros.
    read, _, chunk, _ = (loop.bundles for loop in loops if loop.depth == 2)
    assert read <= READ and chunk <= CHUNK[patch_size]
