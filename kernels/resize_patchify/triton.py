"""The kernel in Triton for CUDA GPUs, called through jax-triton: `pallas_gpu`'s durable twin."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from kernels.resize_patchify.gpu_tiles import (
    ALIGNMENT,
    NUM_STAGES,
    NUM_WARPS,
    block_table,
    padded_side,
    splits_pixels,
    tile,
    too_large,
)
from kernels.resize_patchify.layout import Layout, canvas_of
from kernels.resize_patchify.spec import PatchSpec
from kernels.resize_patchify.weights import RADIUS


def resize_patchify(
    frames: Num[Array, "B F H W 3"] | Num[Array, "B F 3 H W"], layout: Layout, spec: PatchSpec
) -> Float[Array, "B P D"]:
    """See `kernels.resize_patchify.api.resize_patchify`."""
    from jax_triton import triton_call

    from kernels.resize_patchify.triton_kernel import kernel

    table = block_table(layout)
    tokens = len(table) * spec.merge_size**2
    out = jax.ShapeDtypeStruct((tokens, spec.features), spec.output_dtype)
    # Said, because Triton means to change its default.
    options = {"enable_fp_fusion": True}
    # jax-triton 0.4 renamed both.
    if _version("jax-triton") >= (0, 4):
        named = {"out_type": out, "backend_options": options}
    else:
        named = {"out_shape": out, **options}
    patches = triton_call(
        table,
        frames,
        kernel=kernel,
        grid=(len(table) * spec.temporal_patch_size,),
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
        compute_capability=_compute_capability(),
        **named,
        **constants(frames.shape, frames.dtype, spec, layout.sources is not None),
    )
    return patches.reshape(frames.shape[0], -1, spec.features)


def constants(
    frames_shape: tuple[int, ...], dtype: jnp.dtype, spec: PatchSpec, sources: bool
) -> dict:
    """What the kernel is compiled for, by the names of its parameters."""
    height, width = canvas_of(frames_shape)
    per_channel = zip(spec.mean, spec.std, strict=True)
    return {
        "NUM_BLOCKS": spec.capacity,
        "NUM_FRAMES": frames_shape[1],
        "CANVAS_HEIGHT": height,
        "CANVAS_WIDTH": width,
        "SOURCES": sources,
        "CHANNELS_LAST": frames_shape[-1] == 3,
        "PATCH": spec.patch_size,
        "MERGE": spec.merge_size,
        "PER_UNIT": spec.temporal_patch_size,
        "PADDED": padded_side(spec),
        "TILE_ROWS": tile(spec)[0],
        "TILE_COLS": tile(spec)[1],
        "ALIGNMENT": ALIGNMENT,
        "RADIUS": RADIUS[spec.filter],
        "ANTIALIAS": spec.antialias,
        "ROUND": spec.rounding == "final",
        "HIGH": spec.precision == "high",
        "SPLIT_PIXELS": splits_pixels(dtype, spec),
    } | {
        f"{name}_{channel}": float(value)
        for channel, values in enumerate(per_channel)
        for name, value in zip(("MEAN", "STD"), values, strict=True)
    }


def lacks(frames_shape: tuple[int, ...], spec: PatchSpec) -> str | None:
    """What keeps the kernel from a call: a package, its version, or a limit of its own."""
    jax_triton, triton = _version("jax-triton"), _version("triton")
    if not jax_triton or not triton:
        wanted = "0.3.1" if _version("jax") < (0, 11) else "0.4.1 (or 0.3.1 with triton 3.6)"
        missing = "jax-triton" if not jax_triton else "triton"
        return f"needs the package {missing}, which is not installed; wants jax-triton {wanted}"
    if jax_triton >= (0, 4) and _version("jax") < (0, 11):
        return f"jax-triton {version('jax-triton')} needs jax 0.11, wants jax-triton 0.3.1"
    if jax_triton >= (0, 4) and triton < (3, 7):
        return f"jax-triton {version('jax-triton')} needs triton 3.7, found {version('triton')}"
    if jax_triton < (0, 3, 1) or triton < (3, 6):
        found = f"{version('jax-triton')} and {version('triton')}"
        return f"needs jax-triton 0.3.1 and triton 3.6 or newer, found {found}"
    if jax_triton < (0, 4) and triton >= (3, 7) and _version("jax") >= (0, 11):
        older = f"jax-triton {version('jax-triton')}"
        return f"on jax 0.11 {older} goes with triton 3.6 alone, found {version('triton')}"
    if not any(find_spec(f"jax_cuda{cuda}_plugin") for cuda in (12, 13)):
        return "needs the package jax-cuda13-plugin (or jax-cuda12-plugin), which is not installed"
    return too_large(spec)


@cache
def _version(package: str) -> tuple[int, ...]:
    """Empty if the package is not installed."""
    try:
        numbers = version(package).split(".")[:3]
    except PackageNotFoundError:
        return ()
    return tuple(int(number) for number in numbers if number.isdigit())


@cache
def _compute_capability() -> int:
    """That of the first GPU; a compilation without one is for an H100, as in Pallas."""
    try:
        device, *_ = jax.local_devices(backend="gpu")
    except RuntimeError:
        return 90
    return int(str(device.compute_capability).replace(".", ""))
