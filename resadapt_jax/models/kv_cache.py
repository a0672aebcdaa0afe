"""The keys and values that a decoder has seen, in arrays of static length."""

import flax.struct
import jax
import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float, Int


@flax.struct.dataclass
class KVCache:
    """One slot per position, shared by the rows of a batch; a row's padding leaves masked slots.

    Rotation is applied before a key is stored, so a slot's index carries no position.

    Attributes:
        keys: per layer, rotated keys.
        values: per layer.
        mask: slots that hold a valid position.
        length: slots written so far.
    """

    keys: tuple[Float[Array, "B Hk S D"], ...]
    values: tuple[Float[Array, "B Hk S D"], ...]
    mask: Bool[Array, "B S"]
    length: Int[Array, ""]

    def extend(self, slots: int) -> "KVCache":
        """The same cache with room for ``slots`` more positions."""

        def pad(x: Array) -> Array:
            return jnp.pad(x, [(0, 0), (0, 0), (0, slots), (0, 0)])

        return self.replace(
            keys=tuple(map(pad, self.keys)),
            values=tuple(map(pad, self.values)),
            mask=jnp.pad(self.mask, [(0, 0), (0, slots)]),
        )


def write_slots(slots: Array, new: Array, start: Int[Array, ""], axis: int) -> Array:
    """Puts ``new`` into ``slots`` from slot ``start`` of ``axis`` on."""
    return jax.lax.dynamic_update_slice_in_dim(slots, new.astype(slots.dtype), start, axis)
