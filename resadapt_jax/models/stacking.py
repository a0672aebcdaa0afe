"""Layers of equal shape as one tree, so that a program scans them instead of listing each.

Compiling then takes as long for 80 layers as for 2. Checkpoints, generation and everything that
names a layer keep them one by one; `scan_layers` runs either form.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from resadapt_jax.typing import Array, Int, Params, PyTree

CarryT = TypeVar("CarryT")


@flax.struct.dataclass
class StackedLayers:
    """Layers of one structure.

    Attributes:
        tree: a layer's parameters, each array with a leading axis that counts the layers.
    """

    tree: Params


Layers = Mapping[str, Params] | StackedLayers
"""The layers of a network under their numbers, or stacked."""


def stack_layers(tree: PyTree) -> PyTree:
    """Replaces every dict of numbered layers that are equal in structure, shapes and dtypes.

    Takes parameters, their gradients, or a state that holds either. Arrays on a mesh stay split as
    they are; the new axis is whole on every device. Copies: the tree given remains valid.
    """

    def stacked(node: Any) -> Any:
        if not _are_layers(node):
            return node
        layers = [node[str(index)] for index in range(len(node))]
        places = jax.tree.map(_place_stacked, layers[0])
        return StackedLayers(jax.jit(_stack, out_shardings=places)(*layers))

    return jax.tree.map(stacked, tree, is_leaf=_are_layers)


def unstack_layers(tree: PyTree) -> PyTree:
    """Undoes `stack_layers`, bitwise; what holds no stacked layers comes back as it is."""

    def numbered(node: Any) -> Any:
        if not _is_stacked(node):
            return node
        count = len(jax.tree.leaves(node.tree)[0])
        places = (jax.tree.map(_place_single, node.tree),) * count
        layers = jax.jit(_unstack, out_shardings=places)(node.tree)
        return {str(index): layer for index, layer in enumerate(layers)}

    return jax.tree.map(numbered, tree, is_leaf=_is_stacked)


class CheckpointTensor(NamedTuple):
    """A tensor that a checkpoint stores under a key of its own.

    Attributes:
        array: holds it.
        layer: which part of the array it is, if that is stacked.
    """

    array: Array
    layer: int | None = None

    @property
    def nbytes(self) -> int:
        return self.array.nbytes // (1 if self.layer is None else len(self.array))

    def value(self) -> np.ndarray:
        """Only now is anything copied to the host."""
        return np.asarray(self.array if self.layer is None else self.array[self.layer])


def checkpoint_tensors(params: Params) -> dict[str, CheckpointTensor]:
    """The tensors of a tree by their keys, whether or not their layers are stacked."""
    tensors = {}
    for key, leaf in traverse_util.flatten_dict(params, sep=".").items():
        if not _is_stacked(leaf):
            tensors[key] = CheckpointTensor(leaf)
            continue
        for name, array in traverse_util.flatten_dict(leaf.tree, sep=".").items():
            for layer in range(len(array)):
                tensors[f"{key}.{layer}.{name}"] = CheckpointTensor(array, layer)
    return tensors


def scan_layers(
    step: Callable[[Params, CarryT, int | Int[Array, ""]], tuple[CarryT, Any]],
    layers: Layers,
    carry: CarryT,
    num_layers: int,
) -> tuple[CarryT, Any]:
    """``carry, y = step(layer, carry, index)`` through all layers.

    Args:
        step: is traced once for stacked layers, and once for each of others.
        layers: stacked ones become a `jax.lax.scan`.
        carry: as the first layer takes it.
        num_layers: how many run; of stacked layers, all that there are.

    Returns:
        The last carry and the tree of ``y``: its leaves are tuples over the layers, or where these
        were stacked, arrays with a leading axis that counts them.
    """
    if isinstance(layers, StackedLayers):
        return jax.lax.scan(
            lambda carry, layer: step(layer[0], carry, layer[1]),
            carry,
            (layers.tree, jnp.arange(num_layers)),
        )
    numbered, outputs = [layers[str(index)] for index in range(num_layers)], []
    for index in range(num_layers):
        # Weights that are split over a mesh are gathered where they are used. The next layer's may
        # be while this one runs, those of later ones not yet: XLA would begin with all of them.
        following = slice(index + 1, index + 2)
        numbered[following], carry = jax.lax.optimization_barrier((numbered[following], carry))
        carry, output = step(numbered[index], carry, index)
        outputs.append(output)
    return carry, jax.tree.map(lambda *each: each, *outputs) if outputs else ()


def _is_stacked(node: Any) -> bool:
    return isinstance(node, StackedLayers)


def _are_layers(node: Any) -> bool:
    """Whether a node is a dict of equal trees under "0", "1", ..."""
    if not isinstance(node, Mapping) or node.keys() != {str(i) for i in range(len(node))}:
        return False
    if not node or not all(isinstance(layer, Mapping) for layer in node.values()):
        return False
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), layer) for layer in node.values()]
    return all(kind == kinds[0] for kind in kinds)


def _stack(*layers: Params) -> Params:
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers)


def _unstack(stacked: Params) -> tuple[Params, ...]:
    leaves, structure = jax.tree.flatten(stacked)
    layers = zip(*map(jnp.unstack, leaves), strict=True)
    return tuple(structure.unflatten(layer) for layer in layers)


def _place_stacked(array: Array) -> NamedSharding | None:
    """Where the stack of arrays like this one belongs on their mesh."""
    place = _place(array)
    return place and NamedSharding(place.mesh, PartitionSpec(None, *place.spec))


def _place_single(stacked: Array) -> NamedSharding | None:
    """Undoes `_place_stacked`."""
    place = _place(stacked)
    return place and NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))


def _place(array: Array) -> NamedSharding | None:
    """Where an array lies on a mesh, to be said to XLA, which else may gather it."""
    if isinstance(array, jax.core.Tracer) or not isinstance(array, jax.Array):
        return None
    return array.sharding if isinstance(array.sharding, NamedSharding) else None
