"""The update of a step: gradients over micro-batches, one optimiser step for each mini-batch.

Prompts are dealt to mini-batches like cards, and within one to micro-batches, so every device keeps
its own. A loss is a sum with a weight: those of micro-batches add up and are divided once, so the
gradient is that of the whole mini-batch however it was cut.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import optax

from resadapt_jax.losses import Sums, WeightedSum, add_sums
from resadapt_jax.training.state import Part, descend
from resadapt_jax.typing import Array, Float, Params, PyTree

Objective = Callable[[Params, Any], tuple[WeightedSum, Sums]]
"""Parameters and a micro-batch to the loss and what is logged of it."""


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """How the rollouts of a step become updates."""

    epochs: int = 2
    """Times that every prompt is learnt from."""
    mini_batches: int = 1
    """Parts that the prompts are dealt into; each makes one update."""
    micro_batches: int = 1
    """Parts of a mini-batch that are on the device one after another, which bounds memory."""

    def __post_init__(self) -> None:
        for name in ("epochs", "mini_batches", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def updates_per_step(self) -> int:
        return self.epochs * self.mini_batches


def deal(tree: PyTree[Array], parts: int) -> PyTree[Array]:
    """[B, ...] -> [parts, B / parts, ...]; part i has the prompts i, i + parts, ..."""
    return jax.tree.map(
        lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree
    )


def sum_gradients(
    objective: Objective, params: Params, batch: PyTree[Array], micro_batches: int
) -> tuple[Params, Float[Array, ""], Sums]:
    """∇ Σ total and Σ weight of the loss over micro-batches, in float32, and the summed metrics."""

    def of_part(part: Any) -> tuple[Params, Float[Array, ""], Sums]:
        def total(params: Params) -> tuple[Array, tuple[Array, Sums]]:
            loss, sums = objective(params, part)
            return loss.total, (loss.weight, sums)

        gradients, (weight, sums) = jax.grad(total, has_aux=True)(params)
        return jax.tree.map(lambda g: g.astype(jnp.float32), gradients), weight, sums

    parts = deal(batch, micro_batches)
    shapes = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(carry: tuple, part: Any) -> tuple[tuple, None]:
        return add_parts(carry, of_part(part)), None

    return jax.lax.scan(add, zeros, parts)[0]


def add_parts(
    a: tuple[Params, Float[Array, ""], Sums], b: tuple[Params, Float[Array, ""], Sums]
) -> tuple[Params, Float[Array, ""], Sums]:
    """What `sum_gradients` gave of two parts of a batch as one."""
    return jax.tree.map(jnp.add, a[0], b[0]), a[1] + b[1], add_sums(a[2], b[2])


def update_part(
    part: Part,
    gradients: Params,
    weight: Float[Array, ""],
    optimizer: optax.GradientTransformation,
) -> tuple[Part, Float[Array, ""]]:
    """One update by summed gradients over their weight, and the norm of their mean.

    What nothing counted in teaches nothing: neither momentum nor weight decay moves the part.
    """
    counted = weight > 0
    scale = jnp.where(counted, 1.0, 0.0) / jnp.where(counted, weight, 1.0)
    mean = jax.tree.map(lambda g: g * scale, gradients)
    moved, norm = descend(part, mean, optimizer)
    return jax.tree.map(lambda new, old: jnp.where(counted, new, old), moved, part), norm


def learn(
    objective: Objective,
    part: Part,
    batch: PyTree[Array],
    optimizer: optax.GradientTransformation,
    config: UpdateConfig,
) -> tuple[Part, Sums, Float[Array, ""]]:
    """All updates of a step.

    Returns:
        The part, the metrics of the last epoch summed over its mini-batches, and the norm of the
        last gradient.
    """

    def one_update(part: Part, mini: Any) -> tuple[Part, tuple[Sums, Array]]:
        gradients, weight, sums = sum_gradients(objective, part.params, mini, config.micro_batches)
        part, norm = update_part(part, gradients, weight, optimizer)
        return part, (sums, norm)

    minis = deal(batch, config.mini_batches)

    def one_epoch(part: Part, _: None) -> tuple[Part, tuple[Sums, Array]]:
        part, (sums, norms) = jax.lax.scan(one_update, part, minis)
        of_minis = (jax.tree.map(itemgetter(i), sums) for i in range(config.mini_batches))
        return part, (reduce(add_sums, of_minis), norms[-1])

    # Loops, so that more updates compile no longer.
    part, (sums, norms) = jax.lax.scan(one_epoch, part, length=config.epochs)
    return part, jax.tree.map(lambda x: x[-1], sums), norms[-1]
