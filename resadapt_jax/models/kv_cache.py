"""The keys and values that a decoder has seen, in arrays of static length."""

from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from resadapt_jax.typing import Array, Bool, Float, Int


class CachedConfig(Protocol):
    """What the cache's shape depends on of a family's text config."""

    num_hidden_layers: int
    num_key_value_heads: int

    @property
    def head_dim(self) -> int: ...


@flax.struct.dataclass
class KVCache:
    """One slot per position, shared by the rows of a batch; a row's padding leaves masked slots.

    Rotation is applied before a key is stored, so a slot's index carries no position.

    Attributes:
        keys: per layer, rotated keys; of stacked layers one array, which `extend` cuts up.
        values: per layer.
        mask: slots that hold a valid position.
        length: slots written so far.
    """

    keys: tuple[Float[Array, "B Hk S D"], ...]
    values: tuple[Float[Array, "B Hk S D"], ...]
    mask: Bool[Array, "B S"]
    length: Int[Array, ""]

    @classmethod
    def empty(cls, config: CachedConfig, batch: int, slots: int, dtype: DTypeLike) -> "KVCache":
        """Room for ``slots`` positions. Attention reads it in the activations' dtype."""
        shape = (batch, config.num_key_value_heads, slots, config.head_dim)
        layers = range(config.num_hidden_layers)
        return cls(
            keys=tuple(jnp.zeros(shape, dtype) for _ in layers),
            values=tuple(jnp.zeros(shape, dtype) for _ in layers),
            mask=jnp.zeros((batch, slots), bool),
            length=jnp.zeros((), jnp.int32),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, known when traced."""
        return sum(x.size * x.dtype.itemsize for x in (*self.keys, *self.values))

    def extend(self, slots: int) -> "KVCache":
        """The same cache with room for ``slots`` more positions."""

        def pad(x: Array) -> Array:
            return jnp.pad(x, [(0, 0), (0, 0), (0, slots), (0, 0)])

        return self.replace(
            keys=tuple(map(pad, self.keys)),
            values=tuple(map(pad, self.values)),
            mask=jnp.pad(self.mask, [(0, 0), (0, slots)]),
        )

    def repeat(self, copies: int) -> "KVCache":
        """Every row ``copies`` times, the copies adjacent."""

        def rows(x: Array) -> Array:
            return jnp.repeat(x, copies, axis=0)

        return self.replace(
            keys=tuple(map(rows, self.keys)),
            values=tuple(map(rows, self.values)),
            mask=rows(self.mask),
        )


def cache_bytes(config: CachedConfig, batch: int, slots: int, dtype: DTypeLike) -> int:
    """Bytes of a cache's keys and values: 2 · layers · B · Hk · S · D · bytes of ``dtype``."""
    per_slot = config.num_key_value_heads * config.head_dim * jnp.dtype(dtype).itemsize
    return 2 * config.num_hidden_layers * batch * slots * per_slot


def write_slots(slots: Array, new: Array, start: Int[Array, ""], axis: int) -> Array:
    """Puts ``new`` into ``slots`` from slot ``start`` of ``axis`` on."""
    return jax.lax.dynamic_update_slice_in_dim(slots, new.astype(slots.dtype), start, axis)
