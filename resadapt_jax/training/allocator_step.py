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
    retention,
    sizes_from_scales,
    token_counts,
)
from resadapt_jax.training.measures import (
    gini,
    mean_of_rows,
    mean_where,
    ratio_extremes,
    scale_span,
    scale_std,
)
from resadapt_jax.training.mesh import keep_rows
from resadapt_jax.training.prompt_batch import PromptBatch
from resadapt_jax.training.rollout import Draw, draw_allocations, fit_allocations
from resadapt_jax.training.setting import Geometry, Setting
from resadapt_jax.training.state import Part, keep_in_place
from resadapt_jax.training.update import UpdateConfig, learn
from resadapt_jax.typing import Array, Bool, Float, Int, Key, Params, Shaped


@partial(jax.jit, static_argnames=("config", "setting"))
def draw(
    params: Params,
    features: EncoderFeatures,
    batch: PromptBatch,
    key: Key[Array, ""],
    *,
    config: AllocatorConfig,
    setting: Setting,
) -> tuple[Draw, Int[Array, " M"], dict[str, Array]]:
    """M allocations of every prompt, the most tokens at each place among them, and metrics."""
    allocation = allocate(params, config, features)
    drawn = keep_rows(draw_allocations(allocation, batch, key, setting))
    metrics = _metrics_of_policy(allocation, batch, setting.geometry)
    metrics |= _metrics_of_draw(drawn, batch, setting.geometry)
    return drawn, jnp.max(drawn.tokens, axis=0), metrics


@partial(jax.jit, static_argnames=("setting",))
def draw_native(
    batch: PromptBatch, *, setting: Setting
) -> tuple[Draw, Int[Array, " M"], dict[str, Array]]:
    """Every frame at its own size, for training a backbone without an allocator."""
    pairs, geometry = pair_mask(batch.frame_mask), setting.geometry
    shape = (len(pairs), setting.rollouts.num_allocations, pairs.shape[1])
    actions = jnp.full(shape, from_scale(1.0, geometry.scale_range))
    drawn = keep_rows(fit_allocations(actions, jnp.zeros(shape), pairs, batch, setting))
    return drawn, jnp.max(drawn.tokens, axis=0), _metrics_of_draw(drawn, batch, geometry)


@partial(
    jax.jit,
    static_argnames=("config", "loss", "scale_range", "update", "optimizer", "mesh"),
    donate_argnames=("part",),
)
def learn_from(
    part: Part,
    features: EncoderFeatures,
    drawn: Draw,
    advantages: Float[Array, "B M K"],
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
            unit_segments=new.unit_segments,
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
    allocation: AllocatorOutput, batch: PromptBatch, geometry: Geometry
) -> dict[str, Array]:
    """What the policy's mean would show, and how wide it is."""
    shown, native = pair_mask(batch.frame_mask), geometry.native(batch.native_index)
    scales = mean_pair_scales(allocation, batch.frame_mask, geometry.scale_range)
    tokens = token_counts(*sizes_from_scales(scales, native), shown, geometry.limits)
    policy, units = allocation.policy, allocation.unit_mask
    return {
        "retention_of_mean_policy": _mean(retention(tokens, shown, native.tokens), batch),
        "scale_std_of_mean_policy": _mean(scale_std(scales, shown), batch),
        "scale_gini_of_mean_policy": _mean(gini(scales, shown), batch),
        "entropy": mean_where(policy.entropy(), units),
        "concentration_max": jnp.max(policy.concentration(), where=units, initial=0.0),
    }


def _metrics_of_draw(drawn: Draw, batch: PromptBatch, geometry: Geometry) -> dict[str, Array]:
    pairs, native = pair_mask(batch.frame_mask), geometry.native(batch.native_index)
    full = jnp.sum(jnp.where(pairs, native.tokens, 0), axis=-1)[:, None]
    # Nothing leaves behind the tower: one layer stands for all, and all of its entries stay.
    layer_tokens = drawn.tokens[:, :, None]
    units = jnp.broadcast_to(drawn.unit_mask[:, None, :], drawn.scales.shape)
    return {
        "retention": _mean(drawn.tokens / jnp.maximum(full, 1), batch),
        "layer_retention": _mean(layer_retention(layer_tokens, full), batch),
        "cache_retention": _mean(cache_retention(kept=layer_tokens, produced=layer_tokens), batch),
        "scale_mean": mean_where(drawn.scales, units),
        "scale_std": _mean(scale_std(drawn.scales, units), batch),
        "scale_span": _mean(scale_span(drawn.scales, units), batch),
        "scale_gini": _mean(gini(drawn.scales, units), batch),
        "fitted_share": _mean(drawn.fitted, batch),
    }


def _mean(values: Shaped[Array, "B *M"], batch: PromptBatch) -> Float[Array, ""]:
    """Over prompts that show anything: texts alone keep no share of nothing."""
    return mean_of_rows(values, batch.valid & batch.frame_mask.any(axis=1))
