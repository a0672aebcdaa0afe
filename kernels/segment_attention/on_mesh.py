"""Attention on a mesh: rows and heads see nothing of each other, so each device has its own."""

from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

from kernels.batching import can_lie_along, on_one_device
from kernels.segment_attention.places import Places

Attend = Callable[[Array, Array, Array, Places], Array]


def split(
    attend: Attend, query: Array, key: Array, batch_axes: tuple[str, ...], head_axis: str | None
) -> Attend:
    """``attend`` of each device's own rows and heads by ``shard_map``, where that is known to fit.

    XLA cannot split a kernel by itself: it would gather all rows and heads on every device. Where
    the axes do not divide them, ``attend`` itself, which XLA splits as it sees fit.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if on_one_device() or not all(kind is AxisType.Auto for kind in mesh.axis_types):
        return attend
    if not batch_axes and head_axis is None:
        return attend
    if batch_axes and not can_lie_along(batch_axes, len(query)):
        return attend
    head_axes = (head_axis,) if head_axis in mesh.axis_names else ()
    # Of keys, as heads of queries are a multiple of theirs and follow them.
    if head_axes and not can_lie_along(head_axes, key.shape[1]):
        return attend
    return _of_parts(attend, batch_axes, head_axes)


def _of_parts(attend: Attend, batch_axes: tuple[str, ...], head_axes: tuple[str, ...]) -> Attend:
    """``attend`` and its gradient, each by a ``shard_map``.

    JAX could differentiate one ``shard_map`` too. But where rows are those of a ``jax.vmap`` with
    ``spmd_axis_name`` it takes what the forward pass keeps for the same on all their devices, which
    goes well only as long as XLA moves none of it. Here it is kept as the parts that it is, counted
    along a first axis.
    """
    rows, heads = batch_axes or None, head_axes or None
    of_rows, of_heads = PartitionSpec(rows), PartitionSpec(rows, heads)
    own = PartitionSpec((*batch_axes, *head_axes) or None)
    inputs = (of_heads, of_heads, of_heads, Places(of_rows, of_rows, *2 * (PartitionSpec(),)))
    # A kernel's results do not say over which axes they vary.
    on_each = partial(jax.shard_map, check_vma=False)

    @jax.custom_vjp
    def attend_parts(query: Array, key: Array, value: Array, places: Places) -> Array:
        return on_each(attend, in_specs=inputs, out_specs=of_heads)(query, key, value, places)

    @partial(on_each, in_specs=inputs, out_specs=(of_heads, own))
    def forward(query, key, value, places):
        out, transpose = jax.vjp(lambda *x: attend(*x, places), query, key, value)
        return out, jax.tree.map(lambda x: x[None], transpose)

    @partial(on_each, in_specs=(own, of_heads), out_specs=of_heads)
    def backward(transpose, cotangent):
        return jax.tree.map(lambda x: x[0], transpose)(cotangent)

    def gradients(transpose, cotangent):
        return *backward(transpose, cotangent), None

    attend_parts.defvjp(forward, gradients)
    return attend_parts
