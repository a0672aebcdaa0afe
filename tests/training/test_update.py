"""Gradients over micro-batches, and the updates of a step, on a loss that fits in a line."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resadapt_jax.losses import masked_sum
from resadapt_jax.training.state import Part
from resadapt_jax.training.update import UpdateConfig, deal, learn, sum_gradients

PARAMS = {"w": jnp.array([0.5, -1.0])}
BATCH = {
    "x": jnp.arange(16.0).reshape(8, 2) / 10,
    "y": jnp.arange(8.0),
    # Micro-batches of unlike weights: a mean of their means would be another number.
    "mask": jnp.array([True, False, True, True, False, False, True, False]),
}


def squares(params, batch):
    """Σ (x·w - y)² over rows that count."""
    error = jnp.square(batch["x"] @ params["w"] - batch["y"])
    loss = masked_sum(error, batch["mask"])
    return loss, {"loss": loss}


def part(optimizer):
    return Part(params=PARAMS, opt_state=optimizer.init(PARAMS))


def test_prompts_are_dealt_like_cards():
    dealt = deal(jnp.arange(6), 2)
    assert dealt.tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("micro_batches", [1, 2, 4, 8])
def test_micro_batches_add_up_to_the_whole(micro_batches):
    gradients, weight, sums = jax.jit(sum_gradients, static_argnums=(0, 3))(
        squares, PARAMS, BATCH, micro_batches
    )
    x, y = np.asarray(BATCH["x"], np.float64), np.asarray(BATCH["y"], np.float64)
    residual = np.where(BATCH["mask"], x @ np.array([0.5, -1.0]) - y, 0.0)
    np.testing.assert_allclose(gradients["w"], 2 * residual @ x, rtol=1e-6)
    assert weight == 4 and sums["loss"].weight == 4
    np.testing.assert_allclose(sums["loss"].total, np.sum(residual**2), rtol=1e-6)


def test_gradients_add_up_in_float32():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    gradients, _, _ = sum_gradients(squares, params, BATCH, 2)
    assert gradients["w"].dtype == jnp.float32


def test_an_epoch_is_one_update_for_each_mini_batch():
    optimizer = optax.sgd(0.1)
    update = UpdateConfig(epochs=2, mini_batches=2, micro_batches=2)
    got, sums, norm = jax.jit(learn, static_argnums=(0, 3, 4))(
        squares, part(optimizer), BATCH, optimizer, update
    )
    x, y = np.asarray(BATCH["x"], np.float64), np.asarray(BATCH["y"], np.float64)
    w, totals, counts = np.array([0.5, -1.0]), [], []
    for _ in range(2):
        for rows in (slice(0, 8, 2), slice(1, 8, 2)):
            mask = np.asarray(BATCH["mask"])[rows]
            residual = np.where(mask, x[rows] @ w - y[rows], 0.0)
            gradient = 2 * residual @ x[rows] / mask.sum()
            totals.append(np.sum(residual**2))
            counts.append(mask.sum())
            w = w - 0.1 * gradient
    np.testing.assert_allclose(got.params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(norm, np.linalg.norm(gradient), rtol=1e-5)
    # What is logged is the last epoch's, weighed as a whole.
    np.testing.assert_allclose(sums["loss"].mean(), sum(totals[2:]) / sum(counts[2:]), rtol=1e-5)
    assert update.updates_per_step == 4


def test_a_mini_batch_of_nothing_changes_nothing():
    optimizer = optax.sgd(0.1)
    nothing = BATCH | {"mask": jnp.zeros(8, bool), "x": jnp.full((8, 2), 7.0)}
    got, sums, norm = learn(squares, part(optimizer), nothing, optimizer, UpdateConfig(epochs=1))
    np.testing.assert_array_equal(got.params["w"], PARAMS["w"])
    assert norm == 0 and sums["loss"].mean() == 0


def test_neither_momentum_nor_decay_moves_what_nothing_counted_for():
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    config = UpdateConfig(epochs=1)
    once, _, _ = learn(squares, part(optimizer), BATCH, optimizer, config)
    assert np.abs(once.params["w"] - PARAMS["w"]).min() > 0.01
    nothing = BATCH | {"mask": jnp.zeros(8, bool)}
    again, _, _ = learn(squares, once, nothing, optimizer, config)
    jax.tree.map(np.testing.assert_array_equal, again, once)


@pytest.mark.parametrize("field", ["epochs", "mini_batches", "micro_batches"])
def test_no_updates_are_refused(field):
    with pytest.raises(ValueError, match=field):
        UpdateConfig(**{field: 0})
