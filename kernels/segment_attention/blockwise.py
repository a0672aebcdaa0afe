"""Attention in blocks: memory grows with the sequence, not with its square, forward and backward.

The online softmax of FlashAttention-2 (Dao 2023, arXiv 2307.08691) written with XLA's own loops, so
it compiles for every target. Each block of queries visits the blocks of keys from the first to the
last that it may see, found when the program runs: causal attention costs half, and packed segments
about the sum of their squares.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.batching import lengthening
from kernels.segment_attention.places import Places, pad_keys, pad_queries, spans, zero_unseeing

# A score that is never reached; finite, so that differences of two of them are no NaN.
_NEVER = -1e30


def attend_blockwise(
    query: Float[Array, "B Hq T D"],
    key: Float[Array, "B Hk S D"],
    value: Float[Array, "B Hk S D"],
    places: Places,
    *,
    block: int = 256,
) -> Float[Array, "B Hq T D"]:
    """softmax(Q Kᵀ / √D over visible keys) V; 0 for a query that sees nothing.

    A key is visible if it has the query's segment id, which is not 0, and a slot not after the
    query's: equal slots everywhere make attention bidirectional. Keys are shared by Hq / Hk heads;
    softmax and sums are float32. Differentiated with respect to query, key and value; the backward
    pass recomputes the weights from their log-sum-exp and keeps no T x S array either.
    """
    batch, kv_heads, _, dim = key.shape
    length = query.shape[2]
    seeing = places.query_segment
    query, places = pad_queries(query, places, -length % block)
    key, value, places = pad_keys(key, value, places, -key.shape[2] % block)
    grouped = query.reshape(batch, kv_heads, -1, query.shape[2], dim)
    out = _attend(grouped, key, value, places, block)
    return zero_unseeing(out.reshape(query.shape)[:, :, :length], seeing)


def _blocks(x: Array, axis: int, block: int) -> Array:
    """Cuts an axis into blocks, which come first."""
    shape = x.shape[:axis] + (x.shape[axis] // block, block) + x.shape[axis + 1 :]
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def _joined(x: Array, axis: int) -> Array:
    """Undoes `_blocks`."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _scores(query: Array, key: Array, visible: Array) -> Array:
    """[B Hk G T S] float32."""
    scores = jnp.einsum("bhgqd,bhkd->bhgqk", query, key, preferred_element_type=jnp.float32)
    return jnp.where(visible[:, None, None], scores * key.shape[-1] ** -0.5, _NEVER)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(query, key, value, places, block):
    return _forward(query, key, value, places, block)[0]


def _forward(query, key, value, places, block):
    out, log_sum = _run(_attended, block, places, query, key, value)
    return out, (query, key, value, places, out, log_sum)


def _backward(block, residuals, cotangent):
    query, key, value, places, out, log_sum = residuals
    arrays = query, key, value, out, log_sum, cotangent
    return *_run(_gradients, block, places, *arrays), None


def _run(function, block, places, *arrays):
    """``function(*arrays, places, block)``; the rows of a batch share their slots."""

    def of_batch(rows, slots):
        *arrays, query_segment, key_segment = rows
        return function(*arrays, Places(query_segment, key_segment, *slots), block)

    *segments, query_slot, key_slot = places
    return lengthening(of_batch)((*arrays, *segments), (query_slot, key_slot))


def _attended(query, key, value, places, block):
    """The result and the logarithm of what the weights were divided by."""
    queries, keys = _query_blocks(query, places, block), _key_blocks(key, value, places, block)

    def of_queries(inputs):
        (query, segment, slot), first, past_last = inputs

        def add(index, carry):
            top, total, out = carry
            key, value, key_segment, key_slot = _take(keys, index)
            visible = Places(segment, key_segment, slot, key_slot).visible()
            scores = _scores(query, key, visible)
            new_top = jnp.maximum(top, scores.max(axis=-1))
            weights = jnp.exp(scores - new_top[..., None])
            decay = jnp.exp(top - new_top)
            gained = _product("bhgqk,bhkd->bhgqd", weights, value)
            total = total * decay + weights.sum(axis=-1)
            return new_top, total, out * decay[..., None] + gained

        rows = query.shape[:-1]
        # Between a score and one that is never reached, so that the latter's weight is 0.
        start = jnp.full(rows, _NEVER / 2), jnp.zeros(rows), jnp.zeros(query.shape)
        top, total, out = jax.lax.fori_loop(first, past_last, add, start)
        safe = jnp.where(total > 0.0, total, 1.0)
        return (out / safe[..., None]).astype(query.dtype), top + jnp.log(safe)

    needed = places.visible_blocks(block, block).any(axis=0)
    out, log_sum = jax.lax.map(of_queries, (queries, *spans(needed)))
    return _joined(out, 3), _joined(log_sum, 3)


def _gradients(query, key, value, out, log_sum, cotangent, places, block):
    """Of query, key and value."""
    # Σ_s w_s dw_s of each query, which the softmax's derivative takes away.
    mean = (cotangent.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1)
    queries = (
        *_query_blocks(query, places, block),
        *(_blocks(x, 3, block) for x in (cotangent, log_sum, mean)),
    )

    def of_keys(d_query, inputs):
        (key, value, key_segment, key_slot), first, past_last = inputs

        def add(index, carry):
            d_query, d_key, d_value = carry
            query, segment, slot, d_out, log_sum, mean = _take(queries, index)
            visible = Places(segment, key_segment, slot, key_slot).visible()
            weights = jnp.exp(_scores(query, key, visible) - log_sum[..., None])
            d_weights = _product("bhgqd,bhkd->bhgqk", d_out, value)
            d_scores = weights * (d_weights - mean[..., None]) * key.shape[-1] ** -0.5
            d_value += _product("bhgqk,bhgqd->bhkd", weights, d_out)
            d_key += _product("bhgqk,bhgqd->bhkd", d_scores, query)
            d_query = d_query.at[index].add(_product("bhgqk,bhkd->bhgqd", d_scores, key))
            return d_query, d_key, d_value

        start = d_query, jnp.zeros(key.shape), jnp.zeros(value.shape)
        d_query, *of_block = jax.lax.fori_loop(first, past_last, add, start)
        return d_query, of_block

    needed = places.visible_blocks(block, block).any(axis=0)
    keys = _key_blocks(key, value, places, block)
    start = jnp.zeros(queries[0].shape)
    d_query, (d_key, d_value) = jax.lax.scan(of_keys, start, (keys, *spans(needed.T)))
    gradients = _joined(d_query, 3), _joined(d_key, 2), _joined(d_value, 2)
    dtypes = query.dtype, key.dtype, value.dtype
    return tuple(x.astype(dtype) for x, dtype in zip(gradients, dtypes, strict=True))


def _query_blocks(query: Array, places: Places, block: int) -> tuple[Array, Array, Array]:
    segment, slot = places.query_segment, places.query_slot
    return _blocks(query, 3, block), _blocks(segment, 1, block), _blocks(slot, 0, block)


def _key_blocks(key: Array, value: Array, places: Places, block: int) -> tuple[Array, ...]:
    key, value = _blocks(key, 2, block), _blocks(value, 2, block)
    return key, value, _blocks(places.key_segment, 1, block), _blocks(places.key_slot, 0, block)


def _take(blocks: tuple[Array, ...], index: Int[Array, ""]) -> tuple[Array, ...]:
    return tuple(jax.lax.dynamic_index_in_dim(x, index, keepdims=False) for x in blocks)


def _product(equation: str, x: Array, y: Array) -> Array:
    """An einsum in the inputs' narrower dtype, summed in float32."""
    dtype = min(x.dtype, y.dtype, key=lambda d: jnp.finfo(d).bits)
    return jnp.einsum(
        equation, x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32
    )


_attend.defvjp(_forward, _backward)
