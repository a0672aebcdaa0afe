"""Which backend runs: by name, by the environment, or by the platform that is compiled for."""

from enum import Enum
from importlib import import_module
from types import ModuleType

import jax
from jax import lax
from jaxtyping import Array, Float, Num

from kernels.choice import BackendError, choose, warn_once
from kernels.platform import old_gpu, only_on
from kernels.resize_patchify import reference
from kernels.resize_patchify.layout import Layout
from kernels.resize_patchify.spec import PatchSpec

ENVIRONMENT = "RESIZE_PATCHIFY_BACKEND"
"""Names the backend where the call does not."""


class Backend(Enum):
    """An implementation; all compute what `reference` defines.

    Attributes:
        AUTO: what the environment variable RESIZE_PATCHIFY_BACKEND names; without it, the kernel of
            the platform that the program is compiled for, or the reference.
        REFERENCE: XLA, any platform.
        PALLAS_TPU: Pallas' Mosaic kernel, TPUs.
        PALLAS_GPU: Pallas' Triton lowering, CUDA.
        TRITON: a Triton kernel called through jax-triton, CUDA.
    """

    AUTO = "auto"
    REFERENCE = "reference"
    PALLAS_TPU = "pallas_tpu"
    PALLAS_GPU = "pallas_gpu"
    TRITON = "triton"


# The first that can serve a call does; jax.lax.platform_dependent names the platforms.
_BY_PLATFORM: dict[str, tuple[Backend, ...]] = {
    "tpu": (Backend.PALLAS_TPU,),
    "cuda": (Backend.PALLAS_GPU, Backend.TRITON),
}


def chosen(backend: Backend | str | None) -> Backend:
    """What the call names, else the environment, else `Backend.AUTO`.

    Raises:
        BackendError: either names no backend.
    """
    return choose(backend, ENVIRONMENT, Backend.AUTO)


def run(
    frames: Num[Array, "B F H W 3"] | Num[Array, "B F 3 H W"],
    layout: Layout,
    spec: PatchSpec,
    backend: Backend,
) -> Float[Array, "B P D"]:
    """Runs a backend on a batch of clips.

    Raises:
        BackendError: the backend was named and cannot serve the call; says what it lacks. If that
            is the platform, when the program is lowered.
    """
    if backend is Backend.AUTO:
        return _automatic(frames, layout, spec)
    if backend is Backend.REFERENCE:
        return reference.resize_patchify(frames, layout, spec)
    if lacks := _lacks(backend, frames, spec):
        raise BackendError(f"backend {backend.value}: {lacks}")
    (platform,) = (name for name, served in _BY_PLATFORM.items() if backend in served)
    layout = layout._replace(heights=only_on(platform, backend.value, layout.heights))
    return _module(backend).resize_patchify(frames, layout, spec)


def _automatic(frames: Array, layout: Layout, spec: PatchSpec) -> Array:
    """The platform is that of the compilation, not of this machine: one trace serves all."""

    def plain(frames, layout):
        return reference.resize_patchify(frames, layout, spec)

    def of(backend: Backend):
        return lambda frames, layout: _module(backend).resize_patchify(frames, layout, spec)

    branches = {}
    for platform, candidates in _BY_PLATFORM.items():
        here = jax.default_backend() == {"cuda": "gpu"}.get(platform, platform)
        old = old_gpu() if here and platform == "cuda" else None
        lacks = {backend: old or _lacks(backend, frames, spec) for backend in candidates}
        able = [backend for backend in candidates if lacks[backend] is None]
        if able:
            branches[platform] = of(able[0])
        elif here:
            reasons = "; ".join(f"{backend.value}: {why}" for backend, why in lacks.items())
            warn_once(f"resize_patchify runs its slower XLA reference on this device ({reasons})")
    return lax.platform_dependent(frames, layout, **branches, default=plain)


def _lacks(backend: Backend, frames: Array, spec: PatchSpec) -> str | None:
    """What keeps a backend from serving a call: a package, its version, or a limit of its own."""
    return _module(backend).lacks(frames.shape, spec)


def _module(backend: Backend) -> ModuleType:
    return import_module(f"kernels.resize_patchify.{backend.value}")
