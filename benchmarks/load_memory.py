"""Host memory while a checkpoint is loaded: what is used beyond the parameters themselves.

    python benchmarks/load_memory.py

Writes a synthetic Qwen2.5-VL checkpoint of several gigabytes (bfloat16, several files) to a
temporary folder, loads it onto a mesh of the devices there are in a process of its own, and prints
the peak of resident memory beyond the loaded parameters, in units of the largest file.
Writes ``results/load_memory.json``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from mid_model import MID, device
from safetensors.numpy import save_file
from timing import save

from resadapt_jax.models.qwen2_5_vl.checkpoint import load_hf
from resadapt_jax.models.qwen2_5_vl.model import param_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24, help="of the decoder, 0.1 GB each")
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where to write the checkpoint")
    parser.add_argument("--load", metavar="DIR", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        print(json.dumps(measure(args.load)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as directory:
        largest = write_checkpoint(Path(directory), args.layers, args.files)
        command = [sys.executable, __file__, "--load", directory]
        result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    beyond = result["peak"] - result["before"] - result["parameters"]
    row = {
        **result,
        "largest_file": largest,
        "beyond": beyond,
        "beyond_over_file": beyond / largest,
    }
    for name in ("parameters", "largest_file", "beyond"):
        print(f"{name:14} {row[name] / 1e9:8.3f} GB")
    print(f"beyond the parameters: {row['beyond_over_file']:.2f} of the largest file")
    print("wrote", save("load_memory", {"device": device(), **row}))


def write_checkpoint(directory: Path, num_layers: int, num_files: int) -> int:
    """Random bfloat16 weights, divided evenly; returns the size of the largest file."""
    text = replace(
        MID.text, hidden_size=2048, intermediate_size=6144, num_hidden_layers=num_layers,
        num_attention_heads=16, mrope_section=(16, 24, 24),
    )  # fmt: skip
    config = replace(MID, text=text, vision=replace(MID.vision, out_hidden_size=2048))
    shapes = param_shapes(config)
    rng = np.random.default_rng(0)
    weight_map = {}
    for number in range(num_files):
        name = f"model-{number}.safetensors"
        keys = list(shapes)[number::num_files]
        tensors = {
            key: rng.integers(0, 2**14, shapes[key], np.uint16).view(ml_dtypes.bfloat16)
            for key in keys
        }
        save_file(tensors, directory / name)
        weight_map |= dict.fromkeys(keys, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    return max(path.stat().st_size for path in directory.glob("*.safetensors"))


def measure(directory: str) -> dict[str, int]:
    """Resident bytes before loading, at the peak, and of the parameters."""
    mesh = jax.make_mesh((len(jax.devices()),), ("fsdp",))
    jnp.zeros(1).block_until_ready()
    before = status("VmRSS")
    _, params = load_hf(directory, mesh=mesh)
    leaves = jax.block_until_ready(jax.tree.leaves(params))
    return {
        "before": before,
        "peak": status("VmHWM"),
        "parameters": sum(leaf.nbytes for leaf in leaves),
    }


def status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
