"""What is measured of scales and ratios; per clip or over a batch, masks first."""

import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float, Shaped


def gini(scales: Float[Array, "*B K"], unit_mask: Bool[Array, "*B K"]) -> Float[Array, "*B"]:
    """G = Σᵢ Σⱼ |sᵢ − sⱼ| / (2·T²·s̄) over the T units of a clip; 0 equal, towards 1 all on one.

    By rank, G = Σᵢ (2i − T − 1)·s₍ᵢ₎ / (T·Σ s). 0 for a clip without units or without scale.
    """
    ordered = jnp.sort(jnp.where(unit_mask, scales, jnp.inf), axis=-1)
    count = jnp.sum(unit_mask, axis=-1, keepdims=True)
    rank = jnp.broadcast_to(jnp.arange(1, scales.shape[-1] + 1), scales.shape)
    present = rank <= count
    ordered = jnp.where(present, ordered, 0.0)
    spread = jnp.sum((2 * rank - count - 1) * ordered, axis=-1)
    total = count[..., 0] * jnp.sum(ordered, axis=-1)
    return jnp.where(total > 0, spread / jnp.where(total > 0, total, 1.0), 0.0)


def scale_span(scales: Float[Array, "*B K"], unit_mask: Bool[Array, "*B K"]) -> Float[Array, "*B"]:
    """max s − min s over the units of a clip; 0 for a clip without units."""
    largest = jnp.max(jnp.where(unit_mask, scales, -jnp.inf), axis=-1)
    smallest = jnp.min(jnp.where(unit_mask, scales, jnp.inf), axis=-1)
    return jnp.where(jnp.any(unit_mask, axis=-1), largest - smallest, 0.0)


def scale_std(scales: Float[Array, "*B K"], unit_mask: Bool[Array, "*B K"]) -> Float[Array, "*B"]:
    """σ = √(Σ (s − s̄)² / T) over the units of a clip; 0 for a clip without units."""
    count = jnp.maximum(jnp.sum(unit_mask, axis=-1, keepdims=True), 1)
    mean = jnp.sum(jnp.where(unit_mask, scales, 0.0), axis=-1, keepdims=True) / count
    squares = jnp.where(unit_mask, (scales - mean) ** 2, 0.0)
    return jnp.sqrt(jnp.sum(squares, axis=-1) / count[..., 0])


def ratio_extremes(
    log_probs: Float[Array, "*B"], old_log_probs: Float[Array, "*B"], mask: Bool[Array, "*B"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Smallest and largest importance ratio exp(log π − log π_old) of what counts; 1 if none."""
    ratio = jnp.exp(jnp.where(mask, log_probs - old_log_probs, 0.0))
    some = jnp.any(mask)
    smallest = jnp.min(jnp.where(mask, ratio, jnp.inf))
    largest = jnp.max(jnp.where(mask, ratio, -jnp.inf))
    return jnp.where(some, smallest, 1.0), jnp.where(some, largest, 1.0)


def mean_of_rows(values: Shaped[Array, "B *S"], rows: Bool[Array, " B"]) -> Float[Array, ""]:
    """Mean over the rows that count, whatever the others hold.

    NaN where none do: nothing was measured, and a log leaves it out.
    """
    return mean_where(values, rows.reshape(-1, *(1,) * (values.ndim - 1)))


def mean_where(values: Shaped[Array, "*S"], mask: Bool[Array, "*#S"]) -> Float[Array, ""]:
    """Mean of what is masked in, whatever the rest holds; NaN of nothing."""
    mask = jnp.broadcast_to(mask, values.shape)
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.sum(mask)
