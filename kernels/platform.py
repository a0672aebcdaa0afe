"""Holds a backend to its platform: the program to what it is compiled for, a GPU to its age."""

import re
from functools import partial

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Int

from kernels.choice import BackendError

_only_on = Primitive("only_on")
_only_on.def_impl(lambda x, **names: jax.jit(partial(_only_on.bind, **names))(x))
_only_on.def_abstract_eval(lambda x, **_: x)
batching.defvectorized(_only_on)


def only_on(platform: str, backend: str, x: Int[Array, "..."]) -> Int[Array, "..."]:
    """``x``, in a program that is compiled for this platform.

    The platform is known when a program is lowered, and may be another than this machine's: a trace
    cannot tell. Without this a kernel's own lowering complains, and of other things.

    Args:
        platform: "cuda" or "tpu".
        backend: the name that it goes by in the error.

    Raises:
        BackendError: when the program is lowered for another platform.
    """
    return _only_on.bind(x, platform=platform, backend=backend)


def old_gpu() -> str | None:
    """Why Triton has no code for this process's GPU, or ``None`` if it has."""
    capability = str(getattr(jax.devices()[0], "compute_capability", "unknown"))
    if re.fullmatch(r"([89]|\d\d+)\.\d+", capability):
        return None
    return f"its compute capability is {capability}, not 8.0 or more"


def _lower(context, x, *, platform, backend):
    found = context.platforms or context.module_context.platforms
    if tuple(found) != (platform,):
        raise BackendError(
            f"backend {backend} needs the platform {platform}, here it is {', '.join(found)}"
        )
    return [x]


mlir.register_lowering(_only_on, _lower)
