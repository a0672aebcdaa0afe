"""Splash attention, the TPU kernel that ships with JAX, over segments and slots known at run time.

The kernel walks blocks of scores and skips those that a table calls unseen. Its own makers fill the
table from a static mask; here segments and slots fill it as the program runs, so one compilation
serves every packing, and packed segments cost about the sum of their squares. The tests compile it
for a TPU and run it by the interpreter; no TPU has run it yet, and the block sizes are not tuned.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jaxtyping import Array, Bool, Float, Int

from kernels.platform import only_on
from kernels.segment_attention.places import Places, pad_keys, pad_queries, zero_unseeing

_LANES = 128


def attend_splash(
    query: Float[Array, "B Hq T D"],
    key: Float[Array, "B Hk S D"],
    value: Float[Array, "B Hk S D"],
    places: Places,
    *,
    block: int = 512,
    interpret: bool = False,
) -> Float[Array, "B Hq T D"]:
    """softmax(Q Kᵀ / √D over visible keys) V; 0 for a query of segment 0.

    Differentiated with respect to query, key and value. Lengths are padded to whole blocks with a
    segment that none sees, heads with zeros to whole lanes; the scale is that of the true size.

    Args:
        query: its ``Hq`` heads share the ``Hk`` of the keys.
        key: slots of segment 0 may hold anything.
        value: like ``key``.
        places: who sees whom.
        block: largest side of a block, a multiple of 128.
        interpret: run the kernel's body through XLA, on any device: for tests.

    Raises:
        BackendError: when lowered for another platform than a TPU.
    """
    length, dim = query.shape[2:]
    if not interpret:
        places = places._replace(query_slot=only_on("tpu", "splash", places.query_slot))
    block_q, block_k = (min(block, n + -n % _LANES) for n in (length, key.shape[2]))
    # The kernel knows a key by its index; slots are in order, so the last one seen says it all.
    last = jnp.searchsorted(places.key_slot, places.query_slot, side="right") - 1
    last = jnp.pad(last.astype(jnp.int32), (0, -length % block_q))
    query, places = pad_queries(scaled(query), places, -length % block_q)
    key, value, places = pad_keys(key, value, places, -key.shape[2] % block_k)
    heads = (jnp.pad(x, ((0, 0),) * 3 + ((0, -dim % _LANES),)) for x in (query, key, value))
    blocks = places.visible_blocks(block_q, block_k)
    # A row of blocks without any would end in 0 / 0.
    blocks = blocks.at[:, :, 0].set(blocks[:, :, 0] | ~blocks.any(axis=-1))

    def of_row(inputs):
        *heads, query_segment, key_segment, blocks = inputs
        kernel = _kernel(blocks, last, block_q, block_k, interpret)
        return kernel(*heads, splash.SegmentIds(query_segment, key_segment))

    segments = places.query_segment, places.key_segment
    out = jax.lax.map(of_row, (*heads, *segments, blocks))[:, :, :length, :dim]
    return zero_unseeing(out, places.query_segment[:, :length])


def scaled(query: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Queries / √D. In bfloat16 the factor itself would be rounded, and every score with it."""
    return (query.astype(jnp.float32) * query.shape[-1] ** -0.5).astype(query.dtype)


def _kernel(
    blocks: Bool[Array, "I J"], last: Int[Array, " T"], block_q: int, block_k: int, interpret: bool
) -> splash.SplashAttentionKernel:
    """The kernel that computes these blocks and lets a query see keys up to its ``last``."""
    by_query = _table(blocks, _next_column(blocks), last)
    by_key = _table(blocks, _next_column(blocks.T).T, last)
    return splash.SplashAttentionKernel(
        by_query,  # of the forward pass
        by_query,  # of the gradient of queries
        by_key,  # of the gradients of keys and values
        block_sizes=splash.BlockSizes(
            **dict.fromkeys(("block_q", "block_q_dkv", "block_q_dq"), block_q),
            **dict.fromkeys(("block_kv", "block_kv_dkv", "block_kv_dq"), block_k),
        ),
        is_mqa=False,
        save_residuals=False,
        mask_value=splash.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=None,
        mask_function=_not_after,
        interpret=interpret,
    )


def _table(blocks: Array, upcoming: Array, last: Array) -> MaskInfo:
    """What to compute, in integers as small as they fit: the TPU's scalar memory is."""
    return MaskInfo(
        data_next=upcoming.astype(jnp.int16)[None],
        mask_next=None,
        block_mask=blocks.astype(jnp.int8)[None],
        partial_mask_blocks=None,
        q_sequence=last,
    )


def _next_column(blocks: Bool[Array, "I J"]) -> Int[Array, "I J"]:
    """The column of this block or, row by row, of the next that is computed: what to fetch."""
    index = jnp.where(blocks.ravel(), jnp.arange(blocks.size), blocks.size)
    return jax.lax.cummin(index, reverse=True).reshape(blocks.shape) % blocks.shape[1]


def _not_after(last: Array, key: Array) -> Array:
    return key <= last
