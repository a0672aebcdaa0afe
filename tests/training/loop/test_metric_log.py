"""The metric log: one step late, no duplicates after a resume; the compile counter."""

import json
import math
import struct
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from resadapt_jax.errors import UserError
from resadapt_jax.training.loop.metric_log import CompileCounter, MetricLogger, read_metrics


def board_values(directory):
    """``(step, tag, value)`` of every TensorBoard scalar, oldest file first."""
    values = []
    for path in sorted(directory.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:  # each event: length, checksum of that, the message, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            values += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return values


def test_records_go_to_both_logs(tmp_path):
    with MetricLogger(tmp_path) as logger:
        logger.log(1, {"reward": jnp.float32(0.5), "retention": 0.25})
        logger.log(2, {"reward": jnp.float32(0.75), "retention": jnp.bfloat16(0.5)})
    records = [
        {"step": 1, "reward": 0.5, "retention": 0.25},
        {"step": 2, "reward": 0.75, "retention": 0.5},
    ]
    assert read_metrics(tmp_path / "metrics.jsonl") == records
    expected = {(r["step"], k, r[k]) for r in records for k in ("reward", "retention")}
    assert set(board_values(tmp_path)) == expected


def test_a_record_is_fetched_one_step_late(tmp_path):
    logger = MetricLogger(tmp_path)
    assert logger.log(1, {"x": jnp.float32(1)}) is None
    assert read_metrics(logger.path) == []
    assert logger.log(2, {"x": jnp.float32(2)}) == {"step": 1, "x": 1.0}
    assert read_metrics(logger.path) == [{"step": 1, "x": 1.0}]
    assert logger.flush() == {"step": 2, "x": 2.0}
    assert logger.flush() is None
    logger.close()
    assert [record["step"] for record in read_metrics(logger.path)] == [1, 2]


def test_resuming_drops_what_comes_again(tmp_path):
    with MetricLogger(tmp_path) as logger:
        for step in range(1, 6):
            logger.log(step, {"x": step})
    (events,) = tmp_path.glob("events.out.tfevents.*")
    events.write_bytes(events.read_bytes() + b"\x18\0\0")
    with open(logger.path, "a") as file:
        file.write('{"step": 6, "x":')  # killed while writing
    with MetricLogger(tmp_path, done=3) as logger:
        for step in range(4, 7):
            logger.log(step, {"x": 10 * step})
    records = read_metrics(logger.path)
    expected = [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60)]
    assert [(r["step"], r["x"]) for r in records] == expected
    assert board_values(tmp_path) == [(step, "x", x) for step, x in expected]


@pytest.mark.parametrize(
    "damage", [b'{"step": 2, "x"\n', b"\0\0\0\n", b"\xff\xfe\xfa\n", b"7\n", b'{"x": 1}\n', b"\n"]
)
def test_a_damaged_line_is_named(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "x": 1.0}\n' + damage + b'{"step": 3, "x": 1.0}\n')
    with pytest.raises(
        UserError, match=r"metrics.jsonl line 2 is damaged, remove the line: "
    ) as caught:
        MetricLogger(tmp_path, done=1)
    assert "\n" not in str(caught.value)


def test_a_new_run_starts_an_empty_log(tmp_path):
    with MetricLogger(tmp_path) as logger:
        logger.log(1, {"x": 1})
    with MetricLogger(tmp_path) as logger:
        pass
    assert read_metrics(logger.path) == board_values(tmp_path) == []


def test_what_is_not_finite_is_null_in_json_and_kept_for_the_caller(tmp_path):
    with MetricLogger(tmp_path) as logger:
        logger.log(1, {"loss": jnp.float32(math.nan), "ratio": math.inf})
        record = logger.flush()
    assert math.isnan(record["loss"]) and math.isinf(record["ratio"])
    line = logger.path.read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "loss": None, "ratio": None}
    assert board_values(tmp_path) == []


def test_weights_and_biases_goes_on_with_its_run(tmp_path, monkeypatch):
    started, logged = [], []

    class Run:
        def log(self, values, step):
            logged.append((step, values))

        def finish(self):
            logged.append("finished")

    def init(**options):
        started.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for done in (0, 1):
        with MetricLogger(tmp_path, done=done, wandb_project="videos", config='{"a": 1}') as logger:
            logger.log(done + 1, {"x": done})
    assert logged == [(1, {"x": 0.0}), "finished", (2, {"x": 1.0}), "finished"]
    first, second = started
    assert first == second and len(first["id"]) == 32
    assert (first["project"], first["config"], first["resume"]) == ("videos", {"a": 1}, "allow")


def test_weights_and_biases_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    MetricLogger(tmp_path).close()
    with pytest.raises(UserError, match="run.wandb_project needs the package wandb"):
        MetricLogger(tmp_path, wandb_project="videos")


def test_a_metric_that_is_no_scalar_is_named(tmp_path):
    with MetricLogger(tmp_path) as logger, pytest.raises(ValueError, match=r"reward .*\(2,\)"):
        logger.log(1, {"reward": jnp.zeros(2)})


def test_compiles_are_counted_once_per_shape():
    def scaled(x):
        return x * 2

    function, short, long = jax.jit(scaled), jnp.ones(3), jnp.ones(4)
    with CompileCounter() as compiles:
        function(short)
        assert compiles.names == ["jit(scaled)"]
        function(short)
        assert compiles.count == 1
        function(long)
        assert compiles.count == 2
    jax.jit(lambda x: x + 3)(short)
    assert compiles.count == 2
