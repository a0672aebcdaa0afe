"""Checkpoints: bit for bit, all or nothing, refused with a reason, kept by policy."""

import gc
import json
import logging
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from resadapt_jax.errors import UserError
from resadapt_jax.training.loop.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))


@struct.dataclass
class State:
    params: dict
    opt_state: optax.OptState
    key: jax.Array
    step: jax.Array


def make_state(width=3, seed=0):
    kernel = jax.random.normal(jax.random.key(seed), (2, width))
    params = {"head": {"kernel": kernel, "bias": jnp.zeros(width, jnp.bfloat16)}}
    return State(params, OPTIMIZER.init(params), jax.random.key(seed + 1), jnp.int32(0))


def save(checkpoints, step, state=None, **kwargs):
    kwargs = {"config": "{}", "data_state": {"next": step}} | kwargs
    checkpoints.save(step, make_state(seed=step) if state is None else state, **kwargs)


def bits(tree):
    """Every leaf's bytes, rng keys by their words."""

    def leaf_bits(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

    return jax.tree.map(leaf_bits, tree)


def test_everything_comes_back_bit_for_bit(tmp_path):
    state = make_state()
    state = state.replace(
        params={"head": state.params["head"] | {"odd": jnp.array([jnp.nan, -0.0])}}
    )
    data_state = {"children": [{"next_index": 3}, None], "name": "clips", "share": 0.5}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, config='{"a": 1}', data_state=data_state)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(jax.tree.map(jnp.zeros_like, state.replace(key=state.key)))
    assert bits(restored.state) == bits(state)
    assert jax.tree.structure(restored.state) == jax.tree.structure(state)
    assert restored.state.key.dtype == state.key.dtype
    assert (restored.step, restored.config) == (7, '{"a": 1}')
    assert restored.data_state == data_state
    assert restored.versions["jax"] == jax.__version__


def test_template_may_be_shapes(tmp_path):
    state = make_state()
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, state)
        restored = checkpoints.restore(jax.eval_shape(lambda: state))
    assert bits(restored.state) == bits(state)


def test_leaves_are_placed_as_the_template_is(tmp_path):
    state = {"w": jnp.arange(16.0)}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, state)
        restored = checkpoints.restore({"w": jax.device_put(jnp.zeros(16), sharding)})
    assert restored.state["w"].sharding == sharding
    np.testing.assert_array_equal(restored.state["w"], np.arange(16.0))


def on_mesh(state, shape):
    """The state on a mesh of the trainer's axes; the last two axes of a leaf are split."""
    axis_types = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.make_mesh(shape, ("data", "fsdp", "tensor"), axis_types=axis_types)

    def place(leaf):
        spec = jax.P(("data", "fsdp"), "tensor") if leaf.ndim == 2 else jax.P()
        return jax.device_put(leaf, jax.NamedSharding(mesh, spec))

    return jax.tree.map(place, state)


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1), None])
def test_resumes_onto_another_mesh(tmp_path, shape):
    w = jax.random.normal(jax.random.key(0), (16, 8))
    state = {"w": w, "half": w.astype(jnp.bfloat16), "key": jax.random.key(1), "step": jnp.int32(3)}
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, on_mesh(state, (8, 1, 1)))
    template = state if shape is None else on_mesh(state, shape)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(template).state
    assert bits(restored) == bits(state)
    for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(template), strict=True):
        assert leaf.sharding == wanted.sharding
        assert leaf.addressable_shards[0].data.shape == wanted.addressable_shards[0].data.shape


def test_no_checkpoint_is_none_and_a_missing_step_an_error(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore(make_state()) is None
        save(checkpoints, 2)
        with pytest.raises(UserError, match=r"no checkpoint .*/5; there are \[2\]"):
            checkpoints.restore(make_state(), step=5)


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    """The arrays are copied before ``save`` returns, though the files are written later."""

    @jax.jit(donate_argnums=0)
    def update(state):
        return jax.tree.map(lambda x: x + 1, state)

    state = {"w": jnp.zeros(1_000_000), "v": jnp.zeros((1000, 1000))}
    with Checkpoints(tmp_path, keep_last=10) as checkpoints:
        for step in range(5):
            save(checkpoints, step, state)
            for _ in range(3):
                state = update(state)
        for step in range(5):
            restored = checkpoints.restore(state, step=step).state
            assert float(restored["w"].min()) == float(restored["w"].max()) == 3 * step
            assert float(restored["v"].min()) == float(restored["v"].max()) == 3 * step


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda state: make_state(width=4),
            r"params.head.bias is bfloat16\[3\] there, bfloat16\[4\] here",
        ),
        (
            lambda state: state.replace(step=jnp.float32(0)),
            r"step is int32\[\] there, float32\[\] here",
        ),
        (
            lambda state: state.replace(params=state.params | {"tail": jnp.zeros(1)}),
            r"params.tail is absent there, float32\[1\] here",
        ),
        (
            lambda state: state.replace(opt_state=()),
            r"opt_state.1.0.count is int32\[\] there, absent here",
        ),
        (
            lambda state: state.replace(key=jax.random.key(0, impl="rbg")),
            r"key is key<fry>\[\] there, key<rbg>\[\] here",
        ),
    ],
)
def test_another_models_checkpoint_is_refused_naming_the_leaf(tmp_path, other, message):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, make_state())
        with pytest.raises(UserError, match=message):
            checkpoints.restore(other(make_state()))


def test_keeps_the_last_and_the_best_over_a_restart(tmp_path):
    with Checkpoints(tmp_path, keep_last=2, keep_best=1) as checkpoints:
        for step, metric in enumerate([0.1, 0.9, 0.3, 0.2]):
            save(checkpoints, step, metric=metric)
    assert checkpoints.steps == [1, 2, 3]
    with Checkpoints(tmp_path, keep_last=2, keep_best=1) as checkpoints:
        save(checkpoints, 4, metric=0.95)
        save(checkpoints, 5, metric=None)
        save(checkpoints, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5", "6"]


@pytest.mark.parametrize("left", [b"", b'{"metric": 0.'])
def test_a_damaged_metric_costs_no_more_than_a_place_among_the_best(tmp_path, left):
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        for step, metric in enumerate([0.9, 0.1]):
            save(checkpoints, step, metric=metric)
    (tmp_path / "0" / "metrics" / "metrics").write_bytes(left)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        assert checkpoints.restore(make_state(), step=0).step == 0
        save(checkpoints, 2, metric=0.2)
    assert checkpoints.steps == [2]


def test_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 3, make_state(seed=1))
        save(checkpoints, 3, make_state(seed=2))
        restored = checkpoints.restore(make_state())
    assert bits(restored.state) == bits(make_state(seed=1))


def test_leftovers_of_a_killed_save_are_ignored(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "1", tmp_path / "3")
    (tmp_path / "3" / "commit_success.txt").unlink()
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state()).step == 1
        save(checkpoints, 3)
        assert checkpoints.restore(make_state()).step == 3
    messages = [record.getMessage() for record in caplog.records]
    for name in ("2.orbax-checkpoint-tmp", "3"):
        assert f"ignoring unfinished checkpoint {tmp_path / name}" in messages


def test_kill_before_the_rename_leaves_the_previous_checkpoint(tmp_path):
    """A process kills itself (SIGKILL) when the files are about to get their final name."""
    program = f"""
        import os, signal, jax.numpy as jnp
        from resadapt_jax.training.loop.checkpoint import Checkpoints

        def dying(rename):
            def wrapped(source, destination, **kwargs):
                if os.path.basename(os.fspath(destination)) == "2":
                    os.kill(os.getpid(), signal.SIGKILL)
                return rename(source, destination, **kwargs)
            return wrapped

        os.rename, os.replace = dying(os.rename), dying(os.replace)
        with Checkpoints({str(tmp_path)!r}) as checkpoints:
            for step in (1, 2):
                state = {{"w": jnp.full(1000, step, jnp.float32)}}
                checkpoints.save(step, state, config="", data_state=step)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    left = sorted(path.name.split(".")[0] for path in tmp_path.iterdir())
    assert left == ["1", "2"]  # the second save was under way
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore({"w": jnp.zeros(1000)})
        assert (restored.step, restored.data_state) == (1, 1)
        np.testing.assert_array_equal(restored.state["w"], np.ones(1000, np.float32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's threads
def test_a_damaged_checkpoint_is_an_error_not_a_fallback(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, logger="asyncio")  # orbax's other reads fail unheard
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    for path in (tmp_path / "2" / "state" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:10])
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match="/2 cannot be read: .*") as caught:
            checkpoints.restore(make_state())
        assert "\n" not in str(caught.value)
        assert checkpoints.restore(make_state(), step=1).step == 1
    del caught
    gc.collect()


def test_another_programs_checkpoint_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    path = tmp_path / "1" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    metadata["custom_metadata"] = {}
    path.write_text(json.dumps(metadata))
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match="/1 is another program's, or its metadata is damaged"),
    ):
        checkpoints.restore(make_state())


@jax.jit(donate_argnums=0)
def train_step(state, batch):
    def loss(params):
        noise = jax.random.normal(jax.random.fold_in(state.key, state.step), (2,))
        prediction = (batch + noise[None, :]) @ params["head"]["kernel"]
        bias = params["head"]["bias"].astype(jnp.float32)
        return jnp.mean((prediction + bias[None, :]) ** 2)

    grads = jax.grad(loss)(state.params)
    updates, opt_state = OPTIMIZER.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, opt_state, state.key, state.step + 1)


def run(directory, steps, save_every=2):
    """A small training loop that resumes from whatever it finds."""
    batches = iter(
        grain.MapDataset.source(np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32))
        .seed(3)
        .shuffle()
        .repeat()
        .batch(4)
        .to_iter_dataset(grain.ReadOptions(num_threads=0))
    )
    with Checkpoints(directory) as checkpoints:
        restored = checkpoints.restore(make_state())
        state, start = make_state(), 0
        if restored is not None:
            state, start = restored.state, restored.step
            batches.set_state(restored.data_state)
        for step in range(start, steps):
            state = train_step(state, next(batches))
            if (step + 1) % save_every == 0:
                save(checkpoints, step + 1, state, data_state=batches.get_state())
    return state


def test_a_resumed_run_equals_the_uninterrupted_one_bitwise(tmp_path):
    whole = run(tmp_path / "whole", 8)
    run(tmp_path / "parts", 3)  # the third step is lost: the last save was after the second
    run(tmp_path / "parts", 5)
    assert bits(run(tmp_path / "parts", 8)) == bits(whole)
