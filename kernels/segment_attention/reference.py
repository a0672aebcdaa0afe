"""The definition, in jnp: one array of all scores."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kernels.segment_attention.places import Places, pad_keys, pad_queries, zero_unseeing

# Finite, so that a row with nothing to attend to averages instead of turning into NaN.
_MASKED = float(jnp.finfo(jnp.float32).min)


def attend_dense(
    query: Float[Array, "B Hq T D"],
    key: Float[Array, "B Hk S D"],
    value: Float[Array, "B Hk S D"],
    places: Places,
) -> Float[Array, "B Hq T D"]:
    """See `kernels.segment_attention.api.attend_in_places`."""
    query, places = pad_queries(query, places, 0)
    if query.shape[2] > 1:  # a step of generation is too short to clean a whole cache
        key, value, places = pad_keys(key, value, places, 0)
    out = attend(query, key, value, places.visible())
    return zero_unseeing(out, places.query_segment)


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
