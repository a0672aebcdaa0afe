"""The implementations by name, and which of them runs where none is named."""

import os
from enum import Enum

import jax
from jaxtyping import Array, Float

ENVIRONMENT = "SEGMENT_ATTENTION_BACKEND"
"""The environment variable whose value, a backend's name, replaces AUTO."""

# Scores of one head that AUTO computes at once; beyond, blocks are faster and far smaller.
_MOST_DENSE = 384 * 384


class Backend(Enum):
    """Which implementation of attention runs; all compute the same.

    Attributes:
        AUTO: what the environment variable SEGMENT_ATTENTION_BACKEND names; without it, dense for
            short sequences and single queries; beyond, splash on a lone TPU, and in blocks
            elsewhere.
        DENSE: `reference`, one array of all scores; the definition.
        BLOCKWISE: `blockwise`, memory linear in the sequence, any target.
        SPLASH: `splash`, JAX's kernel for TPUs; single queries are dense. On a mesh it must be
            called inside a ``shard_map``.
        CUDNN: cuDNN's kernel through ``jax.nn.dot_product_attention``; CUDA and half precision.
        TOKAMAX: what the package tokamax picks for the device; install it yourself.
    """

    AUTO = "auto"
    DENSE = "dense"
    BLOCKWISE = "blockwise"
    SPLASH = "splash"
    CUDNN = "cudnn"
    TOKAMAX = "tokamax"


def resolve(
    backend: Backend, query: Float[Array, "B Hq T D"], key: Float[Array, "B Hk S D"]
) -> Backend:
    """The backend that runs for this choice, when the call is traced.

    Raises:
        ValueError: the environment variable holds no backend's name.
    """
    if backend is Backend.AUTO:
        backend = _from_environment()
    if backend is Backend.AUTO:
        backend = _automatic(query, key)
    if backend is Backend.SPLASH and query.shape[2] == 1:
        return Backend.DENSE
    return backend


def _from_environment() -> Backend:
    name = os.environ.get(ENVIRONMENT, Backend.AUTO.value)
    try:
        return Backend(name)
    except ValueError:
        known = ", ".join(backend.value for backend in Backend)
        raise ValueError(f"{ENVIRONMENT}={name!r} is none of {known}") from None


def _automatic(query: Array, key: Array) -> Backend:
    """By the sizes, and by the default device when traced: name a backend to compile for another.

    The branches of ``jax.lax.platform_dependent`` would all be traced in every layer, and under
    differentiation each would keep its residuals.
    """
    length, slots = query.shape[2], key.shape[2]
    if length == 1 or length * slots <= _MOST_DENSE:
        return Backend.DENSE
    # XLA cannot split the kernel over a mesh by itself.
    alone = jax.default_backend() == "tpu" and jax.device_count() == 1
    return Backend.SPLASH if alone else Backend.BLOCKWISE
