"""Attention with grouped heads, over a mask or over segments: where its implementation is chosen.

Every model calls `attend_in_places` (decoders) or `attend_within_segments` (towers).
"""

import jax
import jax.numpy as jnp

from resadapt_jax.models.blockwise_attention import Places, attend_blockwise
from resadapt_jax.models.compute import Attention
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
    """`attend` where ``places`` say who sees whom; what sees nobody gets any finite value."""
    length, slots = query.shape[2], key.shape[2]
    if choice is Attention.AUTO:
        dense = length == 1 or length * slots <= _MOST_DENSE
        choice = Attention.DENSE if dense else Attention.BLOCKWISE
    if choice is Attention.DENSE:
        return attend(query, key, value, places.visible())
    if choice is Attention.BLOCKWISE:
        return attend_blockwise(query, key, value, places, block=_block(query, key))
    length_first = (x.swapaxes(1, 2) for x in (query, key, value))
    mask = places.visible()[:, None]
    out = jax.nn.dot_product_attention(*length_first, mask=mask, implementation="cudnn")
    return out.swapaxes(1, 2)


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
