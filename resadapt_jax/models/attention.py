"""Attention with grouped heads, over a mask or over segments: where its implementation is chosen.

Every model calls `attend_in_places` (decoders) or `attend_within_segments` (towers). A new kernel
is a name in `compute.Attention`, a file beside this one, and a branch in `attend_in_places`.
"""

import jax
import jax.numpy as jnp

from resadapt_jax.models.blockwise_attention import Places, attend_blockwise, pad_keys
from resadapt_jax.models.compute import Attention
from resadapt_jax.models.splash_attention import attend_splash
from resadapt_jax.models.vendor_attention import attend_cudnn, attend_tokamax
from resadapt_jax.typing import Array, Bool, Float, Int

# Scores of one head that AUTO computes at once; beyond, blocks are faster and far smaller.
_MOST_DENSE = 384 * 384

# Finite, so that a row with nothing to attend to averages instead of turning into NaN.
_MASKED = float(jnp.finfo(jnp.float32).min)


def attend(
    query: Float[Array, "B Hq T D"],
    key: Float[Array, "B Hk S D"],
    value: Float[Array, "B Hk S D"],
    mask: Bool[Array, "B T S"],
) -> Float[Array, "B Hq T D"]:
    """``softmax(Q Kᵀ / √D + mask) V``, softmax in float32, keys shared by ``Hq / Hk`` heads.

    Heads lead because batched products over any other axis order are far slower on CPU.
    """
    batch, kv_heads, _, dim = key.shape
    length = query.shape[2]
    grouped = query.reshape(batch, kv_heads, -1, dim)
    scores = jnp.einsum("bkqd,bksd->bkqs", grouped, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, kv_heads, -1, length, key.shape[2]) * (dim**-0.5)
    scores = jnp.where(mask[:, None, None, :, :], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = weights.reshape(batch, kv_heads, -1, key.shape[2])
    return jnp.einsum("bkqs,bksd->bkqd", weights, value).reshape(query.shape)


def attend_in_places(
    query: Float[Array, "B Hq T D"],
    key: Float[Array, "B Hk S D"],
    value: Float[Array, "B Hk S D"],
    places: Places,
    choice: Attention = Attention.AUTO,
) -> Float[Array, "B Hq T D"]:
    """`attend` where ``places`` say who sees whom; what sees nobody gets any finite value.

    Keys and values of segment 0 may hold anything, but only finite values where ``T`` is 1: such
    a step is too short to clean a whole cache.

    Raises:
        UserError: the chosen implementation does not take the inputs, or is not installed.
    """
    if choice is Attention.AUTO:
        choice = _automatic(query, key)
    if choice is Attention.DENSE or (choice is Attention.SPLASH and query.shape[2] == 1):
        if query.shape[2] > 1:
            key, value, places = pad_keys(key, value, places, 0)
        return attend(query, key, value, places.visible())
    if choice is Attention.BLOCKWISE:
        return attend_blockwise(query, key, value, places, block=_block(query, key))
    if choice is Attention.SPLASH:
        return attend_splash(query, key, value, places)
    if choice is Attention.CUDNN:
        return attend_cudnn(query, key, value, places)
    return attend_tokamax(query, key, value, places)


def _automatic(query: Array, key: Array) -> Attention:
    """By the sizes, and by the default device when traced: name a choice to compile for another.

    The branches of ``jax.lax.platform_dependent`` would all be traced in every layer, and under
    differentiation each would keep its residuals.
    """
    length, slots = query.shape[2], key.shape[2]
    if length == 1 or length * slots <= _MOST_DENSE:
        return Attention.DENSE
    # XLA cannot split the kernel over a mesh by itself.
    alone = jax.default_backend() == "tpu" and jax.device_count() == 1
    return Attention.SPLASH if alone else Attention.BLOCKWISE


def _block(query: Array, key: Array) -> int:
    """Side of a block of scores: on a CPU what its cache holds, else fewer and larger steps."""
    if jax.default_backend() != "cpu":
        return 256
    return 64 if query.shape[1] == key.shape[1] else 128


def attend_within_segments(
    query: Float[Array, "P H D"],
    key: Float[Array, "P H D"],
    value: Float[Array, "P H D"],
    segment_ids: Int[Array, " P"],
    choice: Attention = Attention.AUTO,
) -> Float[Array, "P H D"]:
    """Attention among equal ids of a packed sequence; 0 is padding.

    In blocks, cost is about the sum of the squared lengths of the segments if equal ids are
    contiguous, whatever the ids, which may be traced.
    """
    places = Places.of_segments(segment_ids[None])
    heads_first = (x.swapaxes(0, 1)[None] for x in (query, key, value))
    return attend_in_places(*heads_first, places, choice)[0].swapaxes(0, 1)
