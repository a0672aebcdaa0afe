"""Who sees whom, as small arrays known when the program runs, and what follows from them."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Places(NamedTuple):
    """What decides who sees whom: same segment, other than 0, and no later slot.

    Slots of keys never decrease.
    """

    query_segment: Int[Array, "B T"]
    key_segment: Int[Array, "B S"]
    query_slot: Int[Array, " T"]
    key_slot: Int[Array, " S"]

    @classmethod
    def of_segments(cls, ids: Int[Array, "B P"]) -> "Places":
        """Packed segments that see themselves, whatever the order."""
        slots = jnp.zeros(ids.shape[1], jnp.int32)
        return cls(ids, ids, slots, slots)

    def visible(self) -> Bool[Array, "B T S"]:
        """The same as a mask."""
        same = self.query_segment[:, :, None] == self.key_segment[:, None, :]
        same &= self.key_segment[:, None, :] != 0
        return same & (self.key_slot[None, :] <= self.query_slot[:, None])[None]

    def visible_blocks(self, queries: int, keys: int) -> Bool[Array, "B I J"]:
        """Pairs of blocks of so many queries and keys: all in which anything is visible.

        Few others if equal ids are contiguous and in order. The blocks divide the lengths.
        """
        query_low, query_high = (x[:, :, None] for x in _bounds(self.query_segment, queries))
        key_low, key_high = (x[:, None, :] for x in _bounds(self.key_segment, keys))
        latest = self.query_slot.reshape(-1, queries).max(axis=1)
        earliest = self.key_slot.reshape(-1, keys).min(axis=1)
        in_time = earliest[None, :] <= latest[:, None]
        return (query_low <= key_high) & (key_low <= query_high) & in_time[None]


def _bounds(segment: Int[Array, "B S"], block: int) -> tuple[Array, Array]:
    """Lowest and highest segment of each block; padding alone gives bounds that hold nothing."""
    ids = segment.reshape(len(segment), -1, block)
    limits = jnp.iinfo(ids.dtype)
    lowest = jnp.where(ids != 0, ids, limits.max).min(axis=-1)
    return lowest, jnp.where(ids != 0, ids, limits.min).max(axis=-1)


def spans(visible: Bool[Array, "*B I J"]) -> tuple[Int[Array, "*B I"], Int[Array, "*B I"]]:
    """First column that a row needs and one past its last; both 0 for a row that needs none."""
    columns = visible.shape[-1]
    past_last = columns - jnp.argmax(visible[..., ::-1], axis=-1)
    return jnp.argmax(visible, axis=-1), jnp.where(visible.any(axis=-1), past_last, 0)


def pad_queries(
    query: Float[Array, "B H T D"], places: Places, extra: int
) -> tuple[Float[Array, "B H T+extra D"], Places]:
    """Appends queries of segment 0, and makes all of that segment zeros."""
    query = jnp.pad(query, ((0, 0), (0, 0), (0, extra), (0, 0)))
    segment = jnp.pad(places.query_segment, ((0, 0), (0, extra)))
    slot = jnp.pad(places.query_slot, (0, extra))
    # What is padding may hold anything, and 0 times NaN is NaN in the gradient of keys.
    query = jnp.where((segment != 0)[:, None, :, None], query, 0)
    return query, places._replace(query_segment=segment, query_slot=slot)


def pad_keys(
    key: Float[Array, "B H S D"], value: Float[Array, "B H S D"], places: Places, extra: int
) -> tuple[Float[Array, "B H S+extra D"], Float[Array, "B H S+extra D"], Places]:
    """Appends keys and values of segment 0, and makes all of that segment zeros."""
    key, value = (jnp.pad(x, ((0, 0), (0, 0), (0, extra), (0, 0))) for x in (key, value))
    segment = jnp.pad(places.key_segment, ((0, 0), (0, extra)))
    slot = jnp.pad(places.key_slot, (0, extra), mode="edge")  # never decreasing
    # What is padding may hold anything, and 0 times NaN is NaN.
    present = (segment != 0)[:, None, :, None]
    key, value = (jnp.where(present, x, 0) for x in (key, value))
    return key, value, places._replace(key_segment=segment, key_slot=slot)


def zero_unseeing(
    out: Float[Array, "B H T D"], query_segment: Int[Array, "B T"]
) -> Float[Array, "B H T D"]:
    """Zeros for queries of segment 0, and no gradient through them."""
    return jnp.where((query_segment != 0)[:, None, :, None], out, 0)
