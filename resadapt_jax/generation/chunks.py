"""Prompts cut into chunks of equal size, so that what is computed of them at once is bounded."""

import jax
import jax.numpy as jnp

from resadapt_jax.typing import Array, PyTree, Shaped


def num_chunks(length: int, most: int | None) -> int:
    """How many chunks of at most ``most`` positions there are; one if None."""
    return -(-length // most) if most else 1


def in_chunks(
    tree: PyTree[Shaped[Array, "B T ..."]], count: int
) -> PyTree[Shaped[Array, "count B S ..."]]:
    """Cuts axis 1 of every array into as many chunks, the last one ending in zeros."""

    def cut(x: Array) -> Array:
        padding = -x.shape[1] % count
        x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(len(x), count, -1, *x.shape[2:]), 1, 0)

    return jax.tree.map(cut, tree)
