"""Where each parameter lives on a mesh: one table per model, from checkpoint key to mesh axes.

The axes are ``data`` (the batch; no parameter is split over it), ``fsdp`` (parameters and optimiser
state, gathered where they are used) and ``tensor`` (heads and hidden units). Loading, training and
export all read the same table.
"""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import jax
from flax import traverse_util
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from kernels.batching import can_lie_along
from resadapt_jax.models.stacking import StackedLayers, unstack_layers
from resadapt_jax.typing import Array, Params, PyTree

OPEN = PartitionSpec.UNCONSTRAINED
"""Of a dimension that is left to XLA: split as the caller's arrays are, or as ``vmap`` says."""

BATCH = ("data", "fsdp")
"""The axes over which the batch is split; devices along ``tensor`` share their rows."""

HEADS = "tensor"
"""The axis over which attention's heads are split."""

INTO_HEADS, OUT_OF_HEADS = PartitionSpec(HEADS, "fsdp"), PartitionSpec("fsdp", HEADS)
"""Of weights [out, in] that make heads or hidden units, and of those that take them."""

# Patterns as in a shell, `*` also matching dots; the first that matches decides.
PartitionTable = tuple[tuple[str, PartitionSpec], ...]


def partition_specs(
    shapes: Mapping[str, tuple[int, ...]], table: PartitionTable
) -> dict[str, PartitionSpec]:
    """The spec of every parameter.

    Raises:
        ValueError: lists the keys that no pattern matches, or whose spec is longer than the shape.
    """
    specs, problems = {}, []
    for key, shape in shapes.items():
        spec = next((spec for pattern, spec in table if fnmatchcase(key, pattern)), None)
        if spec is None:
            problems.append(f"no rule for {key}")
        elif len(spec) > len(shape):
            problems.append(f"{key} has shape {shape}, its rule is {spec}")
        specs[key] = spec
    if problems:
        raise ValueError("partition table: " + "; ".join(problems))
    return specs


def shardings(
    shapes: Mapping[str, tuple[int, ...]], table: PartitionTable, mesh: Mesh
) -> dict[str, NamedSharding]:
    """The sharding of every parameter on a mesh.

    An axis that the mesh lacks, or that does not divide its dimension, leaves that dimension whole:
    so one table serves every mesh, and sizes too small to split.
    """
    specs = partition_specs(shapes, table)
    fitted = {key: _fitted(spec, shapes[key], mesh) for key, spec in specs.items()}
    return {key: NamedSharding(mesh, spec) for key, spec in fitted.items()}


def tree_shardings(params: Params, table: PartitionTable, mesh: Mesh) -> PyTree[NamedSharding]:
    """The twin of a tree of parameters, for ``jax.jit`` and ``jax.device_put``.

    Stacked layers are split as each of them would be; the axis that counts them is whole.
    """
    flat = traverse_util.flatten_dict(jax.eval_shape(unstack_layers, params), sep=".")
    places = shardings({key: x.shape for key, x in flat.items()}, table, mesh)

    def twin(node: StackedLayers | Array, place: Any) -> Any:
        if not isinstance(node, StackedLayers):
            return place
        return StackedLayers(
            jax.tree.map(lambda x: NamedSharding(mesh, PartitionSpec(None, *x.spec)), place["0"])
        )

    places = traverse_util.unflatten_dict(places, sep=".")
    return jax.tree.map(twin, params, places, is_leaf=lambda x: isinstance(x, StackedLayers))


def constrain(x: Array, *axes: Any) -> Array:
    """Tells XLA how an intermediate array and its gradient are split, dimension by dimension.

    For the mesh of ``jax.set_mesh``; does nothing without one. Dimensions that are not named are
    whole, as are those that an axis does not divide. An array that has the batch split, and no
    other dimension, is what makes XLA gather weights where they are used: else it would rather
    keep them and split the sums over ``fsdp``.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, _fitted(PartitionSpec(*axes), x.shape, mesh))


def map_rows(function: Callable[..., Any]) -> Callable[..., Any]:
    """``jax.vmap`` over the rows of a batch, which inside stay split as `constrain` says.

    Without it XLA may rather split what is within a row, and gather all rows for that: as it does
    with rows that the axes do not divide.
    """

    def mapped(*rows: Any) -> Any:
        split = can_lie_along(BATCH, len(jax.tree.leaves(rows)[0]))
        return jax.vmap(function, spmd_axis_name=BATCH if split else None)(*rows)

    return mapped


def _fitted(
    spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    def fits(axes: Any, size: int) -> bool:
        if axes is OPEN:
            return True
        names = axes if isinstance(axes, tuple) else (axes,)
        if not all(name in mesh.shape for name in names):
            return False
        return size % math.prod(mesh.shape[name] for name in names) == 0

    axes = [axis if fits(axis, size) else None for axis, size in zip(spec, shape, strict=False)]
    return PartitionSpec(*axes)
