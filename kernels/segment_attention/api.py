"""The contract every backend keeps, the checks made before any of them runs, and the dispatch.

A new backend is a name in `backends.Backend`, a file beside this one, and a branch in `_attend`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.arguments import as_array
from kernels.choice import BackendError
from kernels.segment_attention.backends import Backend, resolve
from kernels.segment_attention.blockwise import attend_blockwise
from kernels.segment_attention.on_mesh import split
from kernels.segment_attention.pallas_gpu import attend_pallas_gpu
from kernels.segment_attention.places import Places
from kernels.segment_attention.reference import attend_dense
from kernels.segment_attention.splash import attend_splash
from kernels.segment_attention.vendor import attend_cudnn, attend_tokamax


def attend_in_places(
    query: Float[Array, "B Hq T D"],
    key: Float[Array, "B Hk S D"],
    value: Float[Array, "B Hk S D"],
    places: Places,
    backend: Backend | str | None = None,
    *,
    batch_axes: tuple[str, ...] = (),
    head_axis: str | None = None,
) -> Float[Array, "B Hq T D"]:
    """softmax(Q Kᵀ / √D over the keys that ``places`` let a query see) V; 0 for segment 0.

    Contract of a backend:
      * static: shapes and dtypes; traced: the places, so one compilation serves every packing;
      * a query of segment 0 may hold anything, gives 0 and takes no gradient; any other sees at
        least one key;
      * keys and values of segment 0 may hold anything, NaN included, except where ``T`` is 1:
        such a step is too short to clean a whole cache, and they must be finite;
      * ``Hq / Hk`` consecutive heads of queries share a head of keys;
      * scores, softmax and sums in float32; the result has the dtype of the queries;
      * differentiable in query, key and value, once and in reverse mode.

    Args:
        query: heads lead, as batched products over any other order are far slower on CPU.
        key: as many slots as there are, filled or not.
        value: like ``key``.
        places: who sees whom.
        backend: a `Backend` or its value; nothing is `Backend.AUTO`.
        batch_axes: of the mesh of ``jax.set_mesh``, over which the rows are split, if any.
        head_axis: over which the heads are, if they are. With either, and where the axes divide
            the rows and the heads of keys, each device attends to its own, by whatever backend.
            Else, and for single queries, XLA splits the call; for a kernel chosen by name it
            gathers all rows and heads on every device. Rows that ``jax.vmap`` maps are split by its
            ``spmd_axis_name``, and gathered if it has none.

    Raises:
        ValueError: shapes or dtypes that do not fit together, or an array without elements.
        BackendError: no such backend, or it is not installed or does not take the call.
    """
    _check(query, key, value, places)
    attend = partial(_attend, backend=backend)
    if query.shape[2] > 1:  # XLA splits single queries well, and the cache as it lies
        attend = split(attend, query, key, batch_axes, head_axis)
    return attend(query, key, value, places)


def _attend(
    query: Array, key: Array, value: Array, places: Places, backend: Backend | str | None
) -> Array:
    match resolve(backend, query, key):
        case Backend.DENSE:
            return attend_dense(query, key, value, places)
        case Backend.SPLASH:
            return attend_splash(query, key, value, places)
        case Backend.PALLAS_GPU:
            return attend_pallas_gpu(query, key, value, places)
        case Backend.CUDNN:
            return attend_cudnn(query, key, value, places)
        case Backend.TOKAMAX:
            return attend_tokamax(query, key, value, places)
        case Backend.BLOCKWISE:
            return attend_blockwise(query, key, value, places, block=_block(query, key))
        case other:
            raise BackendError(f"backend {other.value} is not implemented")


def attend_within_segments(
    query: Float[Array, "P Hq D"],
    key: Float[Array, "P Hk D"],
    value: Float[Array, "P Hk D"],
    segment_ids: Int[Array, " P"],
    backend: Backend | str | None = None,
    *,
    head_axis: str | None = None,
) -> Float[Array, "P Hq D"]:
    """`attend_in_places` among equal ids of one packed sequence; 0 is padding.

    In blocks, cost is about the sum of the squared lengths of the segments if equal ids are
    contiguous, whatever the ids, which may be traced. ``backend`` and ``head_axis`` are those of
    `attend_in_places`.

    Raises:
        ValueError: as `attend_in_places`, of these arguments.
        BackendError: as `attend_in_places`.
    """
    named = {"query": query, "key": key, "value": value, "segment_ids": segment_ids}
    query, key, value, segment_ids = (jnp.asarray(as_array(*x)) for x in named.items())
    _check_packed(query, key, value, segment_ids)
    places = Places.of_segments(segment_ids[None])
    heads_first = (x.swapaxes(0, 1)[None] for x in (query, key, value))
    attended = attend_in_places(*heads_first, places, backend, head_axis=head_axis)
    return attended[0].swapaxes(0, 1)


def _block(query: Array, key: Array) -> int:
    """Side of a block of scores: on a CPU what its cache holds, else fewer and larger steps."""
    if jax.default_backend() != "cpu":
        return 256
    return 64 if query.shape[1] == key.shape[1] else 128


def _check_packed(query: Array, key: Array, value: Array, ids: Array) -> None:
    """What `_check` would say of arrays that the caller has not made."""
    shapes = f"got {query.shape}, {key.shape} and {value.shape}"
    if query.ndim != 3 or key.ndim != 3 or key.shape != value.shape:
        raise ValueError(f"query must be [P, Hq, D], key and value [P, Hk, D]: {shapes}")
    _check_elements(query, key)
    if query.shape[::2] != key.shape[::2] or query.shape[1] % key.shape[1]:
        raise ValueError(
            "query and key must agree in length and head size, and the heads of the query be a "
            f"multiple of the key's: {shapes}"
        )
    if ids.shape != query.shape[:1] or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            f"segment_ids must be integers {query.shape[:1]}, got {ids.dtype} {ids.shape}"
        )


def _check_elements(query: Array, key: Array) -> None:
    for name, array in (("query", query), ("key", key)):
        if 0 in array.shape:
            raise ValueError(f"{name} is empty, its shape is {array.shape}")


def _check(query: Array, key: Array, value: Array, places: Places) -> None:
    """Shapes and dtypes; all are static, so this works under jit as well."""
    if query.ndim != 4 or key.ndim != 4 or key.shape != value.shape:
        shapes = f"got {query.shape}, {key.shape} and {value.shape}"
        raise ValueError(f"query must be [B, Hq, T, D], key and value [B, Hk, S, D]: {shapes}")
    _check_elements(query, key)
    batch, heads, length, dim = query.shape
    _, kv_heads, slots, _ = key.shape
    if key.shape != (batch, kv_heads, slots, dim) or heads % kv_heads:
        raise ValueError(
            "query and key must agree in batch and head size, and the heads of the query be a "
            f"multiple of the key's: got {query.shape} and {key.shape}"
        )
    dtypes = {x.dtype for x in (query, key, value)}
    if len(dtypes) != 1 or not jnp.issubdtype(query.dtype, jnp.floating):
        names = ", ".join(str(x.dtype) for x in (query, key, value))
        raise ValueError(f"query, key and value must share one floating dtype, got {names}")
    wanted = Places((batch, length), (batch, slots), (length,), (slots,))
    for name, array, shape in zip(Places._fields, places, wanted, strict=True):
        if array.shape != shape or not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(
                f"places.{name} must be integers {shape}, got {array.dtype} {array.shape}"
            )
