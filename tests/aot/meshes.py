"""Compiles for meshes of devices that are not there, and reads what a program asks of each."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")
H100 = Path(__file__).with_name("h100.textproto")
GPUS_PER_HOST = 8

# Bytes of a device's memory.
H100_BYTES, V5P_BYTES, V5E_BYTES = 80e9, 95e9, 16e9


def h100s(shape: tuple[int, int, int]) -> Mesh:
    """H100s in hosts of eight, the last axis of the mesh within a host."""
    hosts = math.prod(shape) // GPUS_PER_HOST
    topology = topologies.get_topology_desc(
        "",
        platform="cuda",
        topology=f"{hosts}x1x{GPUS_PER_HOST}",
        target_config=H100.read_text(),
    )
    return _mesh(topology, shape)


def tpus(name: str, shape: tuple[int, int, int]) -> Mesh:
    """A slice by its topology, such as ``v5p:2x2x4``."""
    return _mesh(topologies.get_topology_desc(platform="tpu", topology_name=name), shape)


def compile_jitted(
    mesh: Mesh, function: Any, arguments: tuple, options: dict[str, Any]
) -> tuple[jax.stages.Compiled, Any]:
    """The executable of a jitted function as under ``jax.set_mesh(mesh)`` on its devices.

    Args:
        mesh: of one of the functions above.
        function: of ``jax.jit``.
        arguments: trees of `jax.ShapeDtypeStruct`, each with its sharding.
        options: its keyword arguments, static ones among them.

    Returns:
        It, and its results as such trees.
    """
    with of(mesh):
        lowered = function.trace(*arguments, **options).lower(lowering_platforms=(_platform(mesh),))
        program = lowered.compile()
    return program, placed(lowered.out_info, program.output_shardings)


@contextmanager
def of(mesh: Mesh) -> Iterator[None]:
    """Traces as on the mesh: what is chosen by the devices at hand is chosen by its own."""
    backend = {"cuda": "gpu"}.get(_platform(mesh), _platform(mesh))
    with (
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
        mock.patch.object(jax, "default_backend", lambda: backend),
        mock.patch.object(jax, "device_count", lambda: mesh.size),
        mock.patch("kernels.segment_attention.backends.old_gpu", lambda: None),
        mock.patch("kernels.resize_patchify.backends.old_gpu", lambda: None),
    ):
        yield


def _platform(mesh: Mesh) -> str:
    return "cuda" if "H100" in mesh.devices.flat[0].device_kind else "tpu"


def placed(tree: Any, shardings: Any) -> Any:
    """The arrays of a tree without values, each where it belongs."""

    def place(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(place, tree, shardings)


def bytes_per_device(program: jax.stages.Compiled) -> int:
    """Arguments, results and all that is alive between, at its worst."""
    memory = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return held + memory.temp_size_in_bytes - memory.alias_size_in_bytes


def _mesh(topology: Any, shape: tuple[int, int, int]) -> Mesh:
    devices = np.array(topology.devices).reshape(shape)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))
