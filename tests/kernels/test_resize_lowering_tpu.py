"""The Mosaic kernel lowers for a TPU on a machine without one; tests/aot compiles it as well."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from resize_parts import op

from kernels.resize_patchify import Backend, PatchSpec, pallas_tpu
from kernels.resize_patchify.layout import lay_out

SPEC = PatchSpec(capacity=512, max_height=448, max_width=448)


def lowered(frames, *, backend=None, platforms=("tpu",), spec=SPEC, sources=False):
    """The program's text."""
    device = AbstractDevice("TPU v5 lite", 1, "tpu")
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    sizes = [jax.ShapeDtypeStruct((frames.shape[0] // 2,), jnp.int32)] * (4 if sources else 2)
    run = jax.jit(partial(op, spec=spec, backend=backend))
    with jax.sharding.use_abstract_mesh(mesh):
        return run.trace(frames, *sizes).lower(lowering_platforms=platforms).as_text()


def frames(*shape, dtype=jnp.uint8):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize(
    ("frames", "how"),
    [
        (frames(4, 3, 448, 448), {}),
        (frames(4, 300, 500, 3), {"patch_size": 16, "rounding": "final", "dtype": "float16"}),
        (frames(4, 3, 1080, 1920, dtype=jnp.float32), {"filter": "lanczos", "dtype": "bfloat16"}),
    ],
)
@pytest.mark.parametrize("sources", [False, True])
def test_lowers_to_one_kernel(frames, how, sources):
    how = {"max_height": 448, "max_width": 448, **how}
    how = {"spec": PatchSpec(capacity=512, **how), "sources": sources}
    assert lowered(frames, backend=Backend.PALLAS_TPU, **how).count("tpu_custom_call") == 1


def test_the_platform_of_the_program_chooses():
    first = frames(4, 3, 448, 448)
    assert lowered(first).count("tpu_custom_call") == 1
    assert "tpu_custom_call" not in lowered(first, platforms=("cpu",))


def test_says_what_it_lacks():
    spec = PatchSpec(capacity=4, max_height=480, max_width=480, patch_size=80)
    with pytest.raises(ValueError, match="backend pallas_tpu: merge blocks have at most 128"):
        lowered(frames(4, 3, 448, 448), backend=Backend.PALLAS_TPU, spec=spec)
    # Left to itself, the op then takes the reference.
    assert "tpu_custom_call" not in lowered(frames(4, 3, 448, 448), spec=spec)
    assert "frames of 20000 columns need" in pallas_tpu.lacks((1, 4, 3, 64, 20000), SPEC)
    assert "table of 4096 clips" in pallas_tpu.lacks((4096, 128, 3, 448, 448), SPEC)
    assert pallas_tpu.lacks((1, 128, 1080, 1920, 3), SPEC) is None


def test_the_table_names_every_row_of_blocks_then_the_rest():
    spec = PatchSpec(capacity=8, max_height=56, max_width=84)
    heights, widths = [[28, 56, 0], [0, 56, 0]], [[56, 28, 0], [0, 84, 0]]

    @jax.jit
    def table(*sizes):
        layout, _ = lay_out(sizes, None, (448, 448), spec)
        return jnp.stack(pallas_tpu._strips(layout, (448, 448), spec)[:4], axis=1)

    entries = table(jnp.asarray(heights), jnp.asarray(widths)).tolist()
    # unit of the batch, row, first block of the batch, blocks; at most 3 · 2 rows a clip, and one.
    first = [[0, 0, 0, 2], [1, 0, 2, 1], [1, 1, 3, 1], [-1, 0, 4, 4]] + 3 * [[-1, 0, 4, 0]]
    second = [[4, 0, 8, 3], [4, 1, 11, 3], [-1, 0, 14, 2]] + 4 * [[-1, 0, 14, 0]]
    assert entries == first + second
