"""A run of two processes: what is written once, and how they stop together."""

import json
import os
import signal
import socket
import subprocess
import sys

from resadapt_jax.training.metrics import read_metrics

PROGRAM = """
import sys, time
import jax, jax.numpy as jnp
port, process, directory = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(process))
sys.path.insert(0, TESTS)
import test_loop
from resadapt_jax.errors import run_cli
from resadapt_jax.training.loop import run
from resadapt_jax.training.step import StepResult

mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
split, whole = (jax.NamedSharding(mesh, spec) for spec in (jax.P("data"), jax.P()))

@jax.jit
def update(state, x):
    w = state["w"] + x
    return {"w": w}, {"w": jnp.sum(w)}

def step(state, x):
    print("step", int(x), flush=True)
    time.sleep(0.2)
    return StepResult(*update(state, x))

state = {"w": jax.device_put(jnp.zeros(2), split)}
def main():
    run(state, test_loop.batches(), step, config=test_loop.SmallConfig(), output_dir=directory,
        num_steps=NUM_STEPS, finite=("w",), shown=("w",), description="test")
sys.exit(run_cli(main))
"""


def launch(directory, num_steps):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = PROGRAM.replace("TESTS", repr(os.path.dirname(__file__)))
    program = program.replace("NUM_STEPS", str(num_steps))
    environment = os.environ | {"XLA_FLAGS": ""}  # one device each
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, str(port), str(process), str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in range(2)
    ]


def test_two_processes_stop_and_go_on_as_one(tmp_path):
    first, second = launch(tmp_path, 1000)
    for line in second.stdout:
        if line.startswith("step 2"):
            break
    second.send_signal(signal.SIGTERM)  # as one machine alone may be told
    told = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], told
    lines = [text.splitlines()[-1] for text in told]
    assert lines[0] == lines[1] and "terminated: saved after step" in lines[0]
    done = int(lines[0].split("step ")[1].split(" ")[0])
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, done + 1))
    assert records[-1]["w"] == 2 * sum(range(done))
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert json.loads((tmp_path / "config.json").read_text())["rate"] == 0.5
