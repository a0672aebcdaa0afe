"""Compiles for TPUs that are not there: libtpu brings the whole compiler."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import numpy as np
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ROOT = Path(__file__).parents[2]

# Eight chips each.
TOPOLOGIES = {"v5e": "v5e:2x4", "v5p": "v5p:2x2x2", "v6e": "v6e:2x4"}


@cache
def mesh(generation: str, chips: int = 1) -> Mesh:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[generation])
    return Mesh(np.array(topology.devices[:chips]), ("data",))


def compile(
    function: Callable, *arguments: jax.ShapeDtypeStruct, mesh: Mesh, axes: tuple = ()
) -> jax.stages.Compiled:
    """The executable of a function of arrays whose leading axes lie along `axes` of the mesh.

    Arguments and results are row-major. XLA would else choose, and rather have the axis of 128
    frames last than pad 448 columns to 512, though a copy must then bring them back.
    """
    sharding = NamedSharding(mesh, PartitionSpec(*axes))

    def place(x):
        return Format(Layout(major_to_minor=tuple(range(x.ndim))), sharding)

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        formats = jax.tree.map(place, (arguments, jax.eval_shape(function, *arguments)))
        jitted = jax.jit(function, in_shardings=formats[0], out_shardings=formats[1])
        return jitted.trace(*arguments).lower(lowering_platforms=("tpu",)).compile()


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Static schedule of a loop of a kernel.

    Attributes:
        depth: 1 is the grid.
        bundles: instruction words of the body, those of the loops within counted once.
    """

    depth: int
    bundles: int


def loops(program: str, kernel: str) -> list[Loop]:
    """The loops of a kernel, in the order of its instructions.

    Args:
        program: Python source, run in a process of its own, that compiles the kernel.
        kernel: its name, part of the name that XLA gives the instruction.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests/aot")])
        environment = {**os.environ, "LIBTPU_INIT_ARGS": flags, "PYTHONPATH": path}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        (file,) = Path(folder).glob(f"*{kernel}*-final_bundles.txt")
        return _parse(file.read_text())


def _parse(listing: str) -> list[Loop]:
    """A line a bundle: LB where the body of a loop begins, as many > as it is deep, then regions.

    The first region that starts with LB is the loop's own.
    """
    begun, ended = [], {}  # (first bundle, depth, region); region: last bundle
    bundles = re.findall(r"^\s*(?:0x)?[0-9a-f]+\s+(\w\w)?:?\s*:?\s*(>*)\s*\{(.*)", listing, re.M)
    for number, (mark, deep, text) in enumerate(bundles):
        ended.update((region, number) for region in re.findall(r"End region (\d+)", text))
        if mark == "LB":
            begun.append((number, len(deep), re.search(r"Start region (\d+)", text)[1]))
    return [Loop(depth=at, bundles=ended[region] - first + 1) for first, at, region in begun]
