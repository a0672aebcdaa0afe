"""What `jax.vmap` and a mesh make of an operation on a batch."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

Operation = Callable[[Any, Any], Any]
"""``function(rows, shared)``: trees of arrays that count rows first, and of arrays that do not."""


def lengthening(function: Operation) -> Operation:
    """The operation, of which ``jax.vmap`` makes one on a longer batch.

    Else a loop would have bounds for every row, and take its slices by gathers.
    """

    @custom_vmap
    def run(rows, shared):
        return function(rows, shared)

    @run.def_vmap
    def fold(size, batched, rows, shared):
        of_rows, of_shared = batched
        if any(jax.tree.leaves(of_shared)):  # batches that share nothing do not make one
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, (of_rows, of_shared))
            out = jax.vmap(function, in_axes=axes, axis_size=size)(rows, shared)
        else:
            rows = jax.tree.map(partial(_merge, size), rows, of_rows)
            out = run(rows, shared)
            out = jax.tree.map(lambda x: x.reshape(size, len(x) // size, *x.shape[1:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return run


def _merge(size: int, x: Array, is_batched: bool) -> Array:
    if not is_batched:
        x = jnp.broadcast_to(x[None], (size, *x.shape))
    return x.reshape(size * x.shape[1], *x.shape[2:])


def on_one_device() -> bool:
    """Whether XLA need not split what is traced: there is no mesh, or a ``shard_map`` does it."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return all(mesh.shape[name] == 1 or kind is AxisType.Manual for name, kind in kinds)


def can_lie_along(axes: tuple[str, ...], size: int) -> bool:
    """Whether the mesh of ``jax.set_mesh`` has these axes and they divide a batch of this size."""
    mesh = jax.sharding.get_abstract_mesh()
    if not axes or not all(axis in mesh.axis_names for axis in axes):
        return False
    return size % math.prod(mesh.shape[axis] for axis in axes) == 0


def along(axes: tuple[str, ...], function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of batches that each device applies to its own part of them, by ``shard_map``."""
    rows = PartitionSpec(axes)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)
