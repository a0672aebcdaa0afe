"""Compiles for NVIDIA GPUs that are not there, and reads what the machine code asks of them."""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import numpy as np
import nvidia.cu13
import triton
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

H100 = Path(__file__).with_name("h100.textproto")
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
# Triton's own assembler is older than the PTX that Triton writes.
PTXAS = Path(nvidia.cu13.__path__[0]) / "bin/ptxas"


@dataclass(frozen=True, kw_only=True)
class Code:
    """Machine code of one kernel.

    Attributes:
        registers: of a thread.
        spilled: bytes of a thread that found no register.
        instructions: how often each stands there, by its name up to the first dot.
        widths: bits that the loads from global memory move, and how many move so many.
    """

    registers: int
    spilled: int
    instructions: Counter
    widths: Counter


@cache
def mesh(gpus: int) -> Mesh:
    topology = topologies.get_topology_desc(
        "", platform="cuda", topology=f"1x1x{gpus}", target_config=H100.read_text()
    )
    return Mesh(np.array(topology.devices), ("data",))


def compile(
    function: Callable, *arguments: jax.ShapeDtypeStruct, gpus: int = 1, dump: str | None = None
) -> jax.stages.Compiled:
    """The executable for H100s, whose leading axes lie along the mesh where there are several.

    Args:
        dump: a folder for what XLA leaves on its way, PTX among it.
    """
    here = mesh(gpus)
    spec = PartitionSpec("data") if gpus > 1 else PartitionSpec()
    sharding = NamedSharding(here, spec)

    def place(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    with jax.sharding.use_abstract_mesh(here.abstract_mesh):
        traced = jax.jit(function).trace(*jax.tree.map(place, arguments))
        lowered = traced.lower(lowering_platforms=("cuda",))
        return lowered.compile(compiler_options={"xla_dump_to": dump} if dump else None)


def pallas_code(function: Callable, *arguments: jax.ShapeDtypeStruct, kernel: str) -> Code:
    """What XLA makes of a Pallas kernel of this name that the function calls."""
    with tempfile.TemporaryDirectory() as folder:
        compile(function, *arguments, dump=folder)
        texts = [path.read_text() for path in Path(folder).glob("*.ptx")]
    (ptx,) = (text for text in texts if f".entry {kernel}(" in text)
    return assembled(ptx)


def triton_code(
    kernel: triton.JITFunction,
    pointers: dict[str, str],
    constants: dict,
    *,
    capability: int,
    **options,
) -> Code:
    """What Triton makes of a kernel with these pointers (name to type) and constants."""
    signature = pointers | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(pointers))}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return assembled(compiled.asm["ptx"])


def assembled(ptx: str) -> Code:
    """PTX through NVIDIA's assembler and back to text."""
    (architecture,) = re.findall(r"^\.target (sm_\w+)", ptx, re.M)
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        report = _run(PTXAS, "-v", "-arch", architecture, source, "-o", binary)
        sass = _run(TOOLS / "cuobjdump", "-sass", binary)
    names = re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", sass, re.M)
    loads = [name for name in names if re.match(r"LDG(STS)?\.", name)]
    return Code(
        registers=int(re.search(r"Used (\d+) registers", report)[1]),
        spilled=sum(map(int, re.findall(r"(\d+) bytes spill", report))),
        instructions=Counter(name.split(".")[0] for name in names),
        widths=Counter(_bits(name) for name in loads),
    )


def _bits(load: str) -> int:
    sizes = (int(part[1:] if part[0] in "US" else part) for part in load.split(".")
             if re.fullmatch(r"[US]?(8|16|64|128)", part))  # fmt: skip
    return next(sizes, 32)


def _run(tool: Path, *arguments: object) -> str:
    command = list(map(str, (tool, *arguments)))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr
