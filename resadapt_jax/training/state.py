"""What a run changes: the parts in training, their optimisers, and where all of it lies on a mesh.

A part is the allocator or the backbone. Its parameters are float32 whatever its network computes
in: an update of 1e-6 would vanish in bfloat16. Parts are born, loaded and updated where the
partition tables put them, and an optimiser's moments lie where their parameters do.
"""

from fnmatch import fnmatchcase

import jax
import optax
from flax import struct, traverse_util
from jax.sharding import Mesh

from resadapt_jax.errors import UserError
from resadapt_jax.models.partition import PartitionTable, tree_shardings
from resadapt_jax.models.stacking import stack_layers
from resadapt_jax.training.mesh import replicated
from resadapt_jax.typing import Array, Float, Int, Key, Params, PyTree


@struct.dataclass
class Part:
    """A network in training."""

    params: Params
    opt_state: optax.OptState


@struct.dataclass
class TrainState:
    """All that a step changes; a part is None where it is not trained."""

    step: Int[Array, ""]
    allocator: Part | None
    backbone: Part | None
    key: Key[Array, ""]  # never changes; a step's randomness is folded in from its number


def part_shardings(
    params: Params, table: PartitionTable, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Part:
    """Where a part lies: moments like their parameters, counters on every device."""
    places = tree_shardings(params, table, mesh)
    opt_state = jax.eval_shape(optimizer.init, params)
    return Part(
        params=places,
        opt_state=optax.tree.map_params(
            optimizer,
            lambda _, place: place,
            opt_state,
            places,
            transform_non_params=lambda _: replicated(mesh),
        ),
    )


def start_part(
    params: Params, table: PartitionTable, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Part:
    """A part before its first update; a copy, as updates donate what they replace."""
    where = part_shardings(params, table, optimizer, mesh)
    params = jax.device_put(params, where.params, may_alias=False)
    opt_state = jax.jit(optimizer.init, out_shardings=where.opt_state)(params)
    return Part(params=params, opt_state=opt_state)


def keep_in_place(
    part: Part, table: PartitionTable, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Part:
    """Inside jit: the part lies where it lay, whatever XLA would have chosen."""
    where = part_shardings(part.params, table, optimizer, mesh)
    return jax.lax.with_sharding_constraint(part, where)


def descend(
    part: Part, gradients: Params, optimizer: optax.GradientTransformation
) -> tuple[Part, Float[Array, ""]]:
    """One update, and the global norm of the gradients before they are clipped."""
    updates, opt_state = optimizer.update(gradients, part.opt_state, part.params)
    params = optax.apply_updates(part.params, updates)
    return Part(params=params, opt_state=opt_state), optax.tree.norm(gradients)


def describe_parameters(trained: PyTree, frozen: PyTree) -> str:
    """``47.9 M parameters trained, 228 M frozen``."""
    millions = (
        sum(leaf.size for leaf in jax.tree.leaves(part)) / 1e6 for part in (trained, frozen)
    )
    return "{:.3g} M parameters trained, {:.3g} M frozen".format(*millions)


def split_params(params: Params, frozen: tuple[str, ...]) -> tuple[Params, Params]:
    """The parameters that are trained, and those whose path matches a shell pattern of ``frozen``.

    Raises:
        UserError: a pattern that matches nothing, or patterns that leave nothing to train.
    """
    flat = traverse_util.flatten_dict(params, sep=".")
    held = {pattern: {key for key in flat if fnmatchcase(key, pattern)} for pattern in frozen}
    if idle := [pattern for pattern, keys in held.items() if not keys]:
        raise UserError(
            f"backbone_training.frozen: no parameter is called {idle[0]}; {min(flat)} is one"
        )
    fixed = set().union(*held.values())
    if fixed == flat.keys():
        raise UserError("backbone_training.frozen: nothing is left to train")
    trained = {key: value for key, value in flat.items() if key not in fixed}
    rest = {key: flat[key] for key in fixed}
    return tuple(traverse_util.unflatten_dict(part, sep=".") for part in (trained, rest))


def stack_trained(trained: Params, fixed: Params) -> Params:
    """`stack_layers` of what is trained; layers that are frozen in part stay one by one.

    `merge_params` could not put those together again. They take longer to compile.
    """
    return {
        key: stack_trained(part, fixed[key])
        if isinstance(part, dict) and key in fixed
        else stack_layers(part)
        for key, part in trained.items()
    }


def merge_params(trained: Params, fixed: Params) -> Params:
    """Undoes `split_params`, also of `stack_trained` parameters."""
    flat = [traverse_util.flatten_dict(part, sep=".") for part in (trained, fixed)]
    return traverse_util.unflatten_dict(flat[0] | flat[1], sep=".")
