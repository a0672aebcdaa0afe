"""Attention on a mesh: rows and heads see nothing of each other, so each device has its own."""

from collections.abc import Callable

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
    if key.shape[1] % mesh.shape.get(head_axis, 1):
        return attend
    rows, heads = batch_axes or None, head_axis if head_axis in mesh.shape else None
    whole, of_rows, of_heads = PartitionSpec(), PartitionSpec(rows), PartitionSpec(rows, heads)
    return jax.shard_map(
        attend,
        in_specs=(of_heads, of_heads, of_heads, Places(of_rows, of_rows, whole, whole)),
        out_specs=of_heads,
        check_vma=False,  # a kernel's results do not say what they vary over
    )
