"""Two processes of one device each, found over localhost, train what one process trains."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from resadapt_jax.models.qwen2_5_vl.checkpoint import save_hf
from resadapt_jax.training.loop.metric_log import read_metrics
from tests.evaluation.evaluation_parts import backbone

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [
    *(sys.executable, "train.py", "--config", "configs/toy_joint.py"),
    *("--num-steps", "2", "--batch-size", "4", "--backbone-training.remat", "none"),
    *("--data.size", "56", "--data.num-pairs", "3", "--data.num-signs", "2"),
    *("--rollouts.num-allocations", "2", "--rollouts.decoding.max-new-tokens", "3"),
    *("--rollouts.token-capacity", "9", "--allocator.num-space-time-layers", "1"),
]
NOT_LEARNT = {"seconds", "reward_seconds", "compilations", "devices"} | {
    f"{what}_tokens_per_second" for what in ("visual", "answer")
}


def launch(directory, **variables):
    """One device a process, whatever the other tests have."""
    flags = "--xla_backend_optimization_level=0"
    return subprocess.Popen(
        [*COMMAND, "--output-dir", str(directory), "--backbone", str(directory.parent / "tiny")],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes):
    try:
        for process in processes:
            _, stderr = process.communicate(timeout=500)
            assert process.returncode == 0, stderr
    finally:
        for process in processes:
            process.kill()


def test_two_processes_train_what_one_does(tmp_path):
    tiny = backbone()
    save_hf(tmp_path / "tiny", tiny.config, tiny.params)
    tiny.tokenizer.save_pretrained(tmp_path / "tiny")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    finish(
        launch(tmp_path / "one"),
        *(launch(tmp_path / "two", JAX_PROCESS_ID=str(i), **together) for i in range(2)),
    )
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [record["step"] for record in two] == [1, 2]
    for alone, shared in zip(one, two, strict=True):
        assert alone.keys() == shared.keys()
        for name in alone.keys() - NOT_LEARNT:
            np.testing.assert_allclose(shared[name], alone[name], 1e-4, 1e-6, err_msg=name)
    for part in ("allocator", "backbone"):
        weights = [
            load_file(tmp_path / name / part / "model.safetensors") for name in ("one", "two")
        ]
        assert weights[0].keys() == weights[1].keys()
        apart = [np.abs(weights[1][key] - weights[0][key]).ravel() for key in weights[0]]
        # Adam makes whole steps of 1e-4 of a gradient that is but rounding; few are.
        assert np.concatenate(apart).max() < 1e-4 and np.concatenate(apart).mean() < 1e-7
