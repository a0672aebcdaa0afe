"""A run of two processes: goes on from one process's checkpoint, writes once, stops together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from resadapt_jax.training.loop.checkpoint import Checkpoints
from resadapt_jax.training.loop.metric_log import read_metrics
from resadapt_jax.training.loop.protocols import StepResult
from resadapt_jax.training.loop.run import run

PROGRAM = """
import sys
import jax
port, process, directory = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(process))
sys.path.insert(0, TESTS)
import test_distributed
from resadapt_jax.errors import run_cli
sys.exit(run_cli(lambda: test_distributed.go(directory, num_steps=1000, pause=0.2)))
"""


@jax.jit
def update(state, x):
    w = state["w"] + x
    return {"w": w}, {"w": jnp.sum(w)}


def go(directory, *, num_steps, pause=0.0):
    """Adds up the batches on two devices, whichever process they are of."""
    import test_run

    mesh = jax.make_mesh(
        (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2]
    )
    place = jax.NamedSharding(mesh, jax.P("data"))

    def step(state, x):
        print("step", int(x), flush=True)
        time.sleep(pause)
        return StepResult(*update(state, x))

    return run(
        {"w": jax.device_put(jnp.zeros(2), place)},
        test_run.batches(),
        step,
        config=test_run.SmallConfig(),
        output_dir=directory,
        num_steps=num_steps,
        finite=("w",),
        shown=("w",),
        description="test",
    )


def launch(directory):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = PROGRAM.replace("TESTS", repr(os.path.dirname(__file__)))
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


def test_two_processes_go_on_from_one_and_stop_together(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    go(tmp_path, num_steps=3)
    first, second = launch(tmp_path)
    for line in second.stdout:
        if line.startswith("step 5"):
            break
    second.send_signal(signal.SIGTERM)  # as one machine alone may be told
    told = [process.communicate(timeout=120) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], told
    lines = [stderr.splitlines()[-1] for _, stderr in told]
    assert lines[0] == lines[1] and lines[0].startswith("terminated: saved after step ")
    # Batches count from 0: three were done.
    assert "step 3\n" in told[0][0] and "step 2\n" not in told[0][0]
    done = int(lines[0].split("step ")[1].split(" ")[0])
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [(record["step"], record["w"]) for record in records] == [
        (step, 2 * sum(range(step))) for step in range(1, done + 1)
    ]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2  # one for each of the two runs
    assert json.loads((tmp_path / "config.json").read_text())["rate"] == 0.5
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored = checkpoints.restore({"w": jnp.zeros(2)})
    assert restored.step == done
    np.testing.assert_array_equal(restored.state["w"], np.full(2, sum(range(done))))
