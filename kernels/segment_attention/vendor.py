"""Fused attention of other libraries, which take a mask: cuDNN through JAX, and tokamax.

The mask ``[B 1 T S]`` is materialised, in cuDNN's case with its gradient; the scores are not.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.choice import BackendError
from kernels.segment_attention.places import Places, pad_keys, pad_queries, zero_unseeing

# cuDNN takes head sizes that are multiples of it, and no odd lengths where it differentiates.
_MULTIPLE = 8


def attend_cudnn(
    query: Float[Array, "B Hq T D"],
    key: Float[Array, "B Hk S D"],
    value: Float[Array, "B Hk S D"],
    places: Places,
) -> Float[Array, "B Hq T D"]:
    """Attention by cuDNN's kernel, on CUDA devices; head sizes up to 128.

    Its packed layout is not used: it asks for a static bound on the number of segments, and
    ``jax.nn`` does not offer it. The tests lower this for CUDA and do not run it.

    Raises:
        BackendError: for inputs that are not in half precision, or for want of cuDNN.
    """
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        raise BackendError(f"cudnn attention takes bfloat16 or float16, not {query.dtype}")
    attention = partial(jax.nn.dot_product_attention, implementation="cudnn")
    try:
        return _attend(attention, query, key, value, places)
    except RuntimeError as error:  # what JAX raises as it traces, where there is no cuDNN
        here = jax.default_backend()
        reason = f"backend cudnn needs the platform cuda and cuDNN, here it is {here}: {error}"
        raise BackendError(reason) from error


def attend_tokamax(
    query: Float[Array, "B Hq T D"],
    key: Float[Array, "B Hk S D"],
    value: Float[Array, "B Hk S D"],
    places: Places,
) -> Float[Array, "B Hq T D"]:
    """Attention by tokamax, which picks one of its kernels for the device, or plain XLA.

    Raises:
        BackendError: tokamax is not installed.
    """
    try:
        import tokamax
        from absl import flags
    except ImportError as error:
        raise BackendError(f"tokamax attention needs the package tokamax: {error}") from error
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # or tokamax would take the program's arguments for its own
    return _attend(tokamax.dot_product_attention, query, key, value, places)


def _attend(
    attention: Callable[..., Array], query: Array, key: Array, value: Array, places: Places
) -> Array:
    """Calls ``attention`` with lengths before heads and all sizes padded; zeros for segment 0."""
    length, dim = query.shape[2:]
    query, places = pad_queries(query, places, -length % _MULTIPLE)
    key, value, places = pad_keys(key, value, places, -key.shape[2] % _MULTIPLE)
    extra = ((0, 0),) * 3 + ((0, -dim % _MULTIPLE),)
    heads = (jnp.pad(x, extra).swapaxes(1, 2) for x in (query, key, value))
    out = attention(*heads, mask=places.visible()[:, None], scale=dim**-0.5)
    out = out.swapaxes(1, 2)[:, :, :length, :dim]
    return zero_unseeing(out, places.query_segment[:, :length])
