"""Attention over segments and slots for GPUs, written in Pallas and lowered by way of Triton.

FlashAttention-2 (Dao 2023, arXiv 2307.08691). Each program takes a block of queries, reads in a
small table which blocks of keys it may see, and visits these alone: cost grows with the sum of the
squared segment lengths, whatever the packing, which is known when the program runs. The gradients
of keys and values are computed the other way round.

Nothing that comes with JAX does this: ``jax.experimental.pallas.ops.gpu.attention.mha`` compares
segments in every block, cuDNN's packed layout is private to JAX, and ``jax.nn`` and tokamax take a
mask. Packages with CUDA code of their own do (Transformer Engine, given a bound on the number of
segments; flash-attn3-jax; fa4-jax; kvax for head sizes that are powers of two): each ties an
installation to builds of CUDA or to one kind of GPU. This one needs JAX alone.

JAX 0.11 announces that the Triton lowering of Pallas will be removed; `missing` says so when it is.
The tests run this by Pallas' interpreter and compile it for an H100. No GPU has run it yet, and the
tiles are not tuned.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from kernels.choice import BackendError
from kernels.platform import only_on
from kernels.segment_attention.places import Places, pad_keys, pad_queries, spans, zero_unseeing

MAX_HEAD_SIZE = 128

# A score that is never reached; finite, so that differences of two of them are no NaN.
_NEVER = -1e30

_TO_BASE_2 = math.log2(math.e)
_ALL = slice(None)


class Tile(NamedTuple):
    """Queries and keys of a block of scores, a power of two each, and how its program runs."""

    queries: int
    keys: int
    warps: int
    stages: int


class Tiles(NamedTuple):
    """The tile of each kernel."""

    forward: Tile
    d_query: Tile
    d_key_value: Tile


# What an H100's registers hold for every head size.
HALF = Tiles(Tile(128, 64, 8, 3), Tile(64, 64, 4, 3), Tile(32, 64, 4, 3))
SINGLE = Tiles(*[Tile(32, 32, 8, 2)] * 3)


def missing() -> str | None:
    """Why JAX cannot lower the kernels, or ``None`` if it can."""
    try:
        from jax.experimental.pallas import triton  # noqa: F401
    except ImportError as error:
        return f"jax {jax.__version__} has no Triton lowering of Pallas: {error}"
    return None


def attend_pallas_gpu(
    query: Float[Array, "B Hq T D"],
    key: Float[Array, "B Hk S D"],
    value: Float[Array, "B Hk S D"],
    places: Places,
    *,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> Float[Array, "B Hq T D"]:
    """See `kernels.segment_attention.api.attend_in_places`.

    Lengths are padded to whole blocks with a segment that none sees, heads with zeros; the scale is
    that of the true size. float32 is multiplied as ``jax_default_matmul_precision`` says, like
    everywhere in JAX on a GPU: in TF32 if it says nothing. Works under ``jax.vmap``.

    Args:
        query: heads of at most 128; its ``Hq`` heads share the ``Hk`` of the keys.
        key: slots of segment 0 may hold anything.
        value: like ``key``.
        places: who sees whom.
        tiles: sizes of the blocks; by default, those for the dtype.
        interpret: run the kernels' bodies through XLA, on any device: for tests.

    Raises:
        BackendError: larger heads, or a JAX without this lowering; when lowered for another
            platform than CUDA.
    """
    length, dim = query.shape[2:]
    if dim > MAX_HEAD_SIZE:
        raise BackendError(f"pallas_gpu attention takes heads up to {MAX_HEAD_SIZE}, got {dim}")
    if reason := missing():
        raise BackendError(f"pallas_gpu attention cannot run: {reason}")
    if not interpret:
        slot = only_on("cuda", "pallas_gpu", places.query_slot)
        places = places._replace(query_slot=slot)
    if tiles is None:
        tiles = SINGLE if query.dtype == jnp.float32 else HALF
    seeing = places.query_segment
    query, places = pad_queries(query, places, -length % max(tile.queries for tile in tiles))
    extra = -key.shape[2] % max(tile.keys for tile in tiles)
    key, value, places = pad_keys(key, value, places, extra)
    columns = ((0, 0),) * 3 + ((0, _padded_size(dim, query.dtype) - dim),)
    padded = (jnp.pad(x, columns) for x in (query, key, value))
    heads = (x.reshape(-1, *x.shape[2:]) for x in padded)
    out = _attend(*heads, places, dim**-0.5, tiles, interpret)
    out = out.reshape(*query.shape[:3], -1)[:, :, :length, :dim]
    return zero_unseeing(out, seeing)


def _padded_size(dim: int, dtype: jnp.dtype) -> int:
    """Columns of a head: in half precision as many pieces as it takes, in float32 one.

    Triton computes with sizes that are powers of two. 64 + 16 columns for a head of 72 or 80 cost
    less than 128; but of float32 the registers of an H100 hold no two pieces.
    """
    return dim + -dim % 16 if dtype.itemsize == 2 else pl.next_power_of_2(max(dim, 16))


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _attend(query, key, value, places, scale, tiles, interpret):
    return _forward(query, key, value, places, scale, tiles, interpret)[0]


def _forward(query, key, value, places, scale, tiles, interpret):
    tile, (heads, length, _) = tiles.forward, query.shape
    out, log_sum = _launch(
        partial(_segment_attention_forward, tile=tile, scale=scale),
        (length // tile.queries, heads),
        [*_by_query(places, tile), (query, tile.queries), (key, None), (value, None)],
        [
            (jax.ShapeDtypeStruct(query.shape, query.dtype), tile.queries),
            (jax.ShapeDtypeStruct((heads, length), jnp.float32), tile.queries),
        ],
        tile,
        interpret,
    )
    return out, (query, key, value, places, out, log_sum)


def _backward(scale, tiles, interpret, residuals, d_out):
    query, key, value, places, out, log_sum = residuals
    # Σ_s w_s dw_s of each query, which the softmax's derivative takes away.
    mean = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1)
    tile, (heads, length, _) = tiles.d_query, query.shape
    asked = [(x, tile.queries) for x in (query, d_out, log_sum, mean)]
    [d_query] = _launch(
        partial(_segment_attention_d_query, tile=tile, scale=scale),
        (length // tile.queries, heads),
        [*_by_query(places, tile), *asked, (key, None), (value, None)],
        [(jax.ShapeDtypeStruct(query.shape, query.dtype), tile.queries)],
        tile,
        interpret,
    )
    tile, (kv_heads, slots, _) = tiles.d_key_value, key.shape
    grouped = (x.reshape(kv_heads, -1, *x.shape[1:]) for x in (query, d_out, log_sum, mean))
    seen = [(key, tile.keys), (value, tile.keys)]
    d_key, d_value = _launch(
        partial(_segment_attention_d_key_value, tile=tile, scale=scale),
        (slots // tile.keys, kv_heads),
        [*_by_key(places, tile), *((x, None) for x in grouped), *seen],
        [(jax.ShapeDtypeStruct(x.shape, x.dtype), length) for x, length in seen],
        tile,
        interpret,
    )
    return d_query, d_key, d_value, None


_attend.defvjp(_forward, _backward)


def _by_query(places: Places, tile: Tile) -> list[tuple[Array, int | None]]:
    """What a block of queries must know: its span of blocks of keys, segments and slots."""
    span = jnp.stack(spans(places.visible_blocks(tile.queries, tile.keys)), axis=-1)
    lengths = 1, tile.queries, None, tile.queries, None
    return list(zip(_tables(places, span), lengths, strict=True))


def _by_key(places: Places, tile: Tile) -> list[tuple[Array, int | None]]:
    """The same for a block of keys, whose span is of blocks of queries."""
    needed = places.visible_blocks(tile.queries, tile.keys).swapaxes(1, 2)
    lengths = 1, None, tile.keys, None, tile.keys
    tables = _tables(places, jnp.stack(spans(needed), axis=-1))
    return list(zip(tables, lengths, strict=True))


def _tables(places: Places, span: Int[Array, "B I 2"]) -> tuple[Array, ...]:
    slots = places.query_slot[None], places.key_slot[None]
    tables = span, places.query_segment, places.key_segment, *slots
    return tuple(x.astype(jnp.int32) for x in tables)


def _launch(
    body: Callable[..., None],
    grid: tuple[int, int],
    inputs: list[tuple[Array, int | None]],
    outputs: list[tuple[jax.ShapeDtypeStruct, int | None]],
    tile: Tile,
    interpret: bool,
) -> list[Array]:
    """Runs ``body`` for each block of each head, over arrays and the lengths of their blocks.

    Of an array a program sees one entry of the first axis, which neighbours share if there are
    fewer than heads, and the block of the second axis that is its own; all of it for no length.
    """
    from jax.experimental.pallas import triton

    def spec(array, length):
        share, rest = grid[1] // array.shape[0], array.shape[2:]
        return pl.BlockSpec(
            (None, length or array.shape[1], *rest),
            lambda block, head: (head // share, block if length else 0, *[0] * len(rest)),
        )

    return pl.pallas_call(
        body,
        grid=grid,
        in_specs=[spec(*pair) for pair in inputs],
        out_specs=[spec(*pair) for pair in outputs],
        out_shape=[array for array, _ in outputs],
        compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
    )(*(array for array, _ in inputs))


def _segment_attention_forward(
    span, query_segment, key_segment, query_slot, key_slot, query, key, value, out, log_sum,
    *, tile, scale,
):  # fmt: skip
    """Of a block of queries, the result and log₂ of the sum of 2 to the scores."""
    queries, segment, slot = _head(query, _ALL), query_segment[:], query_slot[:]

    def add(block, carry):
        top, total, sums = carry
        at = pl.ds(block * tile.keys, tile.keys)
        visible = _visible(
            segment[:, None], key_segment[at][None, :], slot[:, None], key_slot[at][None, :]
        )
        scores = _scores(queries, _head(key, at), visible, scale)
        new_top = jnp.maximum(top, scores.max(axis=1))
        weights = jnp.exp2(scores - new_top[:, None])
        decay = jnp.exp2(top - new_top)
        sums = _added([x * decay[:, None] for x in sums], weights, _head(value, at))
        return new_top, total * decay + weights.sum(axis=1), sums

    # Between a score and one that is never reached, so that the latter's weight is 0.
    top = jnp.full((tile.queries,), _NEVER / 2, jnp.float32)
    start = top, jnp.zeros((tile.queries,), jnp.float32), _zeros(tile.queries, query)
    top, total, sums = jax.lax.fori_loop(span[0, 0], span[0, 1], add, start)
    safe = jnp.where(total > 0.0, total, 1.0)
    _store(out, [x / safe[:, None] for x in sums])
    log_sum[:] = top + jnp.log2(safe)


def _segment_attention_d_query(
    span, query_segment, key_segment, query_slot, key_slot,
    query, d_out, log_sum, mean, key, value, d_query, *, tile, scale,
):  # fmt: skip
    """Of a block of queries: dQ = W ∘ (dO Vᵀ - mean) K / √D."""
    queries, d_outs = _head(query, _ALL), _head(d_out, _ALL)
    segment, slot, log_sums, means = query_segment[:], query_slot[:], log_sum[:], mean[:]

    def add(block, sums):
        at = pl.ds(block * tile.keys, tile.keys)
        visible = _visible(
            segment[:, None], key_segment[at][None, :], slot[:, None], key_slot[at][None, :]
        )
        keys = _head(key, at)
        weights = jnp.exp2(_scores(queries, keys, visible, scale) - log_sums[:, None])
        d_weights = _products(d_outs, _head(value, at))
        return _added(sums, weights * (d_weights - means[:, None]), keys)

    start = _zeros(tile.queries, query)
    sums = jax.lax.fori_loop(span[0, 0], span[0, 1], add, start)
    _store(d_query, [x * scale for x in sums])


def _segment_attention_d_key_value(
    span, query_segment, key_segment, query_slot, key_slot,
    query, d_out, log_sum, mean, key, value, d_key, d_value, *, tile, scale,
):  # fmt: skip
    """Of a block of keys: dK = (W ∘ (dO Vᵀ - mean))ᵀ Q / √D and dV = Wᵀ dO.

    Scores lie with keys first, so that no array of them need be turned round.
    """
    keys, values = _head(key, _ALL), _head(value, _ALL)
    segment, slot = key_segment[:], key_slot[:]

    def add_head(head, sums):
        def add(block, sums):
            d_keys, d_values = sums
            at = pl.ds(block * tile.queries, tile.queries)
            visible = _visible(
                query_segment[at][None, :], segment[:, None], query_slot[at][None, :], slot[:, None]
            )
            queries, d_outs = _head(query, head, at), _head(d_out, head, at)
            scores = _scores(keys, queries, visible, scale)
            weights = jnp.exp2(scores - log_sum[head, at][None, :])
            d_weights = _products(values, d_outs)
            d_scores = weights * (d_weights - mean[head, at][None, :])
            return _added(d_keys, d_scores, queries), _added(d_values, weights, d_outs)

        return jax.lax.fori_loop(span[0, 0], span[0, 1], add, sums)

    start = _zeros(tile.keys, key), _zeros(tile.keys, value)
    d_keys, d_values = jax.lax.fori_loop(0, query.shape[0], add_head, start)
    _store(d_key, [x * scale for x in d_keys])
    _store(d_value, d_values)


Pieces = list[Float[Array, "rows columns"]]


def _columns(dim: int) -> Iterator[Any]:
    """The pieces of a head, each a power of two columns."""
    start = 0
    for size in (128, 64, 32, 16):
        if dim & size:
            yield pl.ds(start, size)
            start += size


def _head(ref: Any, *rows: Any) -> Pieces:
    return [ref[*rows, columns] for columns in _columns(ref.shape[-1])]


def _zeros(rows: int, like: Any) -> Pieces:
    return [jnp.zeros((rows, columns.size), jnp.float32) for columns in _columns(like.shape[-1])]


def _store(ref: Any, pieces: Pieces) -> None:
    for columns, piece in zip(_columns(ref.shape[-1]), pieces, strict=True):
        ref[:, columns] = piece.astype(ref.dtype)


def _visible(query_segment: Array, key_segment: Array, query_slot: Array, key_slot: Array) -> Array:
    """`Places.visible` of one block; queries along one axis, keys along the other."""
    same = (query_segment == key_segment) & (key_segment != 0)
    return same & (key_slot <= query_slot)


def _scores(x: Pieces, y: Pieces, visible: Array, scale: float) -> Array:
    """To the base 2, as the hardware takes powers; float32."""
    return jnp.where(visible, _products(x, y) * (scale * _TO_BASE_2), _NEVER)


def _products(x: Pieces, y: Pieces) -> Float[Array, "x_rows y_rows"]:
    """X Yᵀ, summed in float32."""
    first, *others = (
        jnp.dot(a, b.T, preferred_element_type=jnp.float32) for a, b in zip(x, y, strict=True)
    )
    return sum(others, first)


def _added(sums: Pieces, weights: Float[Array, "rows y_rows"], y: Pieces) -> Pieces:
    """sums + weights Y, the weights in the dtype of Y and the sums in float32."""
    weights = weights.astype(y[0].dtype)
    return [
        total + jnp.dot(weights, piece, preferred_element_type=jnp.float32)
        for total, piece in zip(sums, y, strict=True)
    ]
