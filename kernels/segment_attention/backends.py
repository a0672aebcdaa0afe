"""The implementations by name, and which of them runs where none is named."""

from enum import Enum

import jax
from jaxtyping import Array, Float

from kernels.batching import on_one_device
from kernels.choice import choose, warn_once
from kernels.platform import old_gpu
from kernels.segment_attention import pallas_gpu

ENVIRONMENT = "SEGMENT_ATTENTION_BACKEND"
"""The environment variable whose value, a backend's name, replaces AUTO."""

# Scores of one head that AUTO computes at once; beyond, blocks are faster and far smaller.
_MOST_DENSE = 384 * 384


class Backend(Enum):
    """Which implementation of attention runs; all compute the same.

    Attributes:
        AUTO: what the environment variable SEGMENT_ATTENTION_BACKEND names; without it, dense for
            short sequences and single queries; beyond, splash on TPUs and pallas_gpu on CUDA
            devices, and in blocks elsewhere and where XLA splits a mesh's work by itself. Without
            ``jax.set_mesh`` arrays are taken to lie on one device.
        DENSE: `reference`, one array of all scores; the definition.
        BLOCKWISE: `blockwise`, memory linear in the sequence, any target.
        SPLASH: `splash`, JAX's kernel for TPUs; single queries are dense.
        PALLAS_GPU: `pallas_gpu`, for CUDA devices of compute capability 8.0 and heads of at most
            128; single queries are dense.
        CUDNN: cuDNN's kernel through ``jax.nn.dot_product_attention``; CUDA and half precision.
        TOKAMAX: what the package tokamax picks for the device; install it yourself.
    """

    AUTO = "auto"
    DENSE = "dense"
    BLOCKWISE = "blockwise"
    SPLASH = "splash"
    PALLAS_GPU = "pallas_gpu"
    CUDNN = "cudnn"
    TOKAMAX = "tokamax"


def resolve(
    backend: Backend | str | None,
    query: Float[Array, "B Hq T D"],
    key: Float[Array, "B Hk S D"],
) -> Backend:
    """The backend that runs for this choice, when the call is traced.

    Raises:
        BackendError: the call or the environment variable names no backend.
    """
    backend = choose(backend, ENVIRONMENT, Backend.AUTO)
    if backend is Backend.AUTO:
        backend = _automatic(query, key)
    if backend in (Backend.SPLASH, Backend.PALLAS_GPU) and query.shape[2] == 1:
        return Backend.DENSE
    return backend


def _automatic(query: Array, key: Array) -> Backend:
    """By the sizes, and by the default device when traced: name a backend to compile for another.

    The branches of ``jax.lax.platform_dependent`` would all be traced in every layer, and under
    differentiation each would keep its residuals.
    """
    length, slots = query.shape[2], key.shape[2]
    if length == 1 or length * slots <= _MOST_DENSE:
        return Backend.DENSE
    if not on_one_device():  # XLA cannot split a kernel by itself
        return Backend.BLOCKWISE
    if jax.default_backend() == "tpu":
        return Backend.SPLASH
    if jax.default_backend() == "gpu" and query.shape[3] <= pallas_gpu.MAX_HEAD_SIZE:
        reason = pallas_gpu.missing() or old_gpu()
        if reason is None:
            return Backend.PALLAS_GPU
        warn_once(f"attention runs in blocks of XLA's own, for want of pallas_gpu: {reason}")
    return Backend.BLOCKWISE
