"""The devices of a run: the mesh and its axes, where a batch lies on it, and who else takes part.

One program serves one device, eight and many hosts. Every host reads its own rows of each batch,
and puts them where its devices are.
"""

import os
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from resadapt_jax.errors import UserError
from resadapt_jax.models.partition import BATCH, constrain
from resadapt_jax.typing import Array, PyTree


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices each axis has."""

    data: int = 0
    """Copies of the parameters, each with its share of the batch; 0 takes the devices that the
    other axes leave."""
    fsdp: int = 1
    """Devices that share a copy's parameters and optimiser state, and its share of the batch."""
    tensor: int = 1
    """Devices that split heads and hidden units of the same prompts; keep it within a host."""

    def __post_init__(self) -> None:
        if self.data < 0 or self.fsdp < 1 or self.tensor < 1:
            raise ValueError(f"axes must be positive (data may be 0), got {self}")


def join_cluster() -> None:
    """Joins the other processes of the run, if there are any; before anything is computed.

    jax itself knows SLURM, Kubernetes (GKE), Cloud TPU and Open MPI. Elsewhere, set
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
        UserError: one of the variables is no number.
    """
    said = {}
    for name in ("num_processes", "process_id"):
        value = os.environ.get(f"JAX_{name.upper()}")
        if value is not None and not value.isdecimal():
            raise UserError(f"JAX_{name.upper()} must be a number, got {value!r}")
        if value is not None:
            said[name] = int(value)
    try:
        jax.distributed.initialize(**said)
    except ValueError as error:
        if said or "coordinator_address" not in str(error):
            raise UserError(f"cannot join the other processes: {error}") from error


def is_first_process() -> bool:
    """Whether this process speaks and writes for all."""
    return jax.process_index() == 0


def build_mesh(config: MeshConfig) -> Mesh:
    """The mesh (data, fsdp, tensor) of all processes' devices.

    Raises:
        UserError: more devices are asked for than there are, other numbers than fit, or an axis
            ``tensor`` that leaves a process.
    """
    devices, rest = jax.device_count(), config.fsdp * config.tensor
    data = config.data or devices // rest
    if data * rest > devices or not data:
        raise UserError(
            f"mesh.data x mesh.fsdp x mesh.tensor is {max(data, 1)} x {config.fsdp} x "
            f"{config.tensor}, more than the devices that there are: {devices}"
        )
    if jax.process_count() > 1 and data * rest != devices:
        raise UserError(f"the mesh takes {data * rest} of {devices} devices; it must take all")
    mesh = jax.make_mesh(
        (data, config.fsdp, config.tensor),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
        devices=jax.devices()[: data * rest],
    )
    require_own_prompts(mesh.devices)
    return mesh


def require_own_prompts(devices: np.ndarray) -> None:
    """Refuses a mesh on which several processes hold the same prompts: each reads its own.

    Args:
        devices: of a mesh, ``tensor`` the last axis.

    Raises:
        UserError: the axis ``tensor`` leaves a process.
    """
    processes = np.vectorize(lambda device: device.process_index)(devices)
    if (processes != processes[..., :1]).any():
        raise UserError(
            f"mesh.tensor {devices.shape[-1]} reaches over several processes, each of which reads "
            "prompts of its own; use mesh.fsdp between them"
        )


def own_device() -> Mesh:
    """A device of this process as a mesh; what is computed on it concerns no other process."""
    return jax.make_mesh(
        (1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.local_devices()[:1]
    )


def batch_shares(mesh: Mesh) -> int:
    """Parts that a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of an array whose first axis counts prompts."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    """Of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(local: PyTree[np.ndarray], mesh: Mesh) -> PyTree[Array]:
    """A batch on the mesh from each process's own rows."""
    place = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, x), local)


def keep_rows(tree: PyTree[Array]) -> PyTree[Array]:
    """Inside jit: arrays whose first axis counts prompts stay split as a batch is."""
    return jax.tree.map(lambda x: constrain(x, BATCH), tree)


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree[Array]:
    """A tree that every process has whole, on every device."""
    return jax.device_put(tree, replicated(mesh))


def own_rows(tree: PyTree[Array]) -> PyTree[np.ndarray]:
    """The rows of a batch that this process put there, on the host; undoes `put_batch`."""

    def fetch(array: Array) -> np.ndarray:
        parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    return jax.tree.map(fetch, tree)


def to_host(tree: PyTree) -> PyTree:
    """The whole of every array in every process, one array after another."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(lambda x: multihost_utils.process_allgather(x, tiled=True), tree)


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """The sum of what every process has; a process waits for the others."""
    if jax.process_count() == 1:
        return values
    return np.asarray(multihost_utils.process_allgather(values)).sum(axis=0)
