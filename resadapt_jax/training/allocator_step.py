"""What a step does with the allocator: it draws, and learns from what its draws earned."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from resadapt_jax import losses
from resadapt_jax.allocator import (
    AllocatorConfig,
    AllocatorOutput,
    EncoderFeatures,
    allocate,
    mean_pair_scales,
    pair_mask,
)
from resadapt_jax.allocator.partition import PARTITION
from resadapt_jax.allocator.policy import ScaleRange, from_scale, to_scale
from resadapt_jax.losses import AllocatorLossConfig, Sums, WeightedSum
from resadapt_jax.operators import (
    cache_retention,
    layer_retention,
    native_tokens,
    sizes_from_scales,
    token_counts,
)
from resadapt_jax.training.measures import gini, ratio_extremes, scale_span, scale_std
from resadapt_jax.training.mesh import keep_rows
from resadapt_jax.training.rollout import (
    Draw,
    Geometry,
    RolloutConfig,
    draw_allocations,
    fit_allocations,
)
from resadapt_jax.training.state import Part, keep_in_place
from resadapt_jax.training.update import UpdateConfig, learn
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params


@partial(jax.jit, static_argnames=("config", "geometry", "rollouts"))
def draw(
    params: Params,
    features: EncoderFeatures,
    frame_mask: Bool[Array, "B F"],
    key: Key[Array, ""],
    *,
    config: AllocatorConfig,
    geometry: Geometry,
    rollouts: RolloutConfig,
) -> tuple[Draw, Int[Array, " M"], dict[str, Array]]:
    """M allocations of every prompt, the most tokens at each place among them, and metrics."""
    allocation = allocate(params, config, features)
    drawn = keep_rows(draw_allocations(allocation, frame_mask, key, geometry, rollouts))
    metrics = _metrics_of_policy(allocation, frame_mask, geometry)
    return (
        drawn,
        jnp.max(drawn.tokens, axis=0),
        metrics | _metrics_of_draw(drawn, frame_mask, geometry),
    )


@partial(jax.jit, static_argnames=("geometry", "rollouts"))
def draw_native(
    frame_mask: Bool[Array, "B F"], *, geometry: Geometry, rollouts: RolloutConfig
) -> tuple[Draw, Int[Array, " M"], dict[str, Array]]:
    """Every frame at its own size, for training a backbone without an allocator."""
    pairs = pair_mask(frame_mask)
    shape = (len(pairs), rollouts.num_allocations, pairs.shape[1])
    actions = jnp.full(shape, from_scale(1.0, geometry.scale_range))
    zeros = jnp.zeros(shape)
    drawn = keep_rows(fit_allocations(actions, zeros, pairs, frame_mask, geometry, rollouts))
    return drawn, jnp.max(drawn.tokens, axis=0), _metrics_of_draw(drawn, frame_mask, geometry)


@partial(
    jax.jit,
    static_argnames=("config", "loss", "scale_range", "update", "optimizer", "mesh"),
    donate_argnames=("part",),
)
def learn_from(
    part: Part,
    features: EncoderFeatures,
    drawn: Draw,
    advantages: Float[Array, "B M"],
    allocation_mask: Bool[Array, "B M"],
    *,
    config: AllocatorConfig,
    loss: AllocatorLossConfig,
    scale_range: ScaleRange,
    update: UpdateConfig,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> tuple[Part, Sums, Float[Array, ""]]:
    """The allocator's updates of a step (`update.learn`), eq. (21) to (23)."""

    def objective(params: Params, batch: tuple) -> tuple[WeightedSum, Sums]:
        features, drawn, advantages, allocation_mask = batch
        new = allocate(params, config, features)
        return losses.allocator_loss(
            new.policy.log_prob(drawn.actions),
            drawn.log_probs,
            advantages,
            to_scale(new.policy.mean(), scale_range),
            new.policy.concentration(),
            new.unit_features,
            new.unit_mask,
            loss,
            allocation_mask=allocation_mask,
        )

    batch = features, drawn, advantages, allocation_mask
    part, sums, norm = learn(objective, part, batch, optimizer, update)
    return keep_in_place(part, PARTITION, optimizer, mesh), sums, norm


@partial(jax.jit, static_argnames=("config",))
def compare_with_draw(
    params: Params, features: EncoderFeatures, drawn: Draw, *, config: AllocatorConfig
) -> tuple[Float[Array, "B M"], dict[str, Array]]:
    """How far the policy has moved since it drew: each allocation's ratio, and units' extremes."""
    log_probs = allocate(params, config, features).policy.log_prob(drawn.actions)
    units = jnp.broadcast_to(drawn.unit_mask[:, None, :], log_probs.shape)
    smallest, largest = ratio_extremes(log_probs, drawn.log_probs, units)
    metrics = {"ratio_min_after": smallest, "ratio_max_after": largest}
    return losses.importance_weight(log_probs, drawn.log_probs, units), metrics


def _metrics_of_policy(
    allocation: AllocatorOutput, frame_mask: Bool[Array, "B F"], geometry: Geometry
) -> dict[str, Array]:
    """What the policy's mean would show, and how wide it is."""
    scales = mean_pair_scales(allocation, frame_mask, geometry.scale_range)
    size, shown = (geometry.height, geometry.width), pair_mask(frame_mask)
    sizes = sizes_from_scales(scales, *size, geometry.limits)
    tokens = token_counts(*sizes, shown, geometry.limits).sum(axis=-1)
    policy, units = allocation.policy, allocation.unit_mask
    return {
        "retention_of_mean_policy": jnp.mean(tokens / _native(shown, geometry)),
        "scale_std_of_mean_policy": jnp.mean(scale_std(scales, shown)),
        "scale_gini_of_mean_policy": jnp.mean(gini(scales, shown)),
        "entropy": jnp.mean(policy.entropy(), where=units),
        "concentration_max": jnp.max(policy.concentration(), where=units, initial=0.0),
    }


def _metrics_of_draw(
    drawn: Draw, frame_mask: Bool[Array, "B F"], geometry: Geometry
) -> dict[str, Array]:
    native = _native(pair_mask(frame_mask), geometry)
    # Nothing leaves behind the tower: one layer stands for all, and all of its entries stay.
    layer_tokens = drawn.tokens[:, :, None]
    units = jnp.broadcast_to(drawn.unit_mask[:, None, :], drawn.scales.shape)
    return {
        "retention": jnp.mean(drawn.tokens / native[:, None]),
        "layer_retention": jnp.mean(layer_retention(layer_tokens, native[:, None])),
        "cache_retention": jnp.mean(cache_retention(kept=layer_tokens, produced=layer_tokens)),
        "scale_mean": jnp.mean(drawn.scales, where=units),
        "scale_std": jnp.mean(scale_std(drawn.scales, units)),
        "scale_span": jnp.mean(scale_span(drawn.scales, units)),
        "scale_gini": jnp.mean(gini(drawn.scales, units)),
        "fitted_share": jnp.mean(drawn.fitted),
    }


def _native(pairs: Bool[Array, "B E"], geometry: Geometry) -> Float[Array, " B"]:
    """Tokens of every prompt's clip at scale 1."""
    one = native_tokens(geometry.height, geometry.width, geometry.limits)
    return jnp.maximum(jnp.sum(pairs, axis=-1), 1) * float(one)
