"""The allocator's whole objective, eq. (23): surrogate, temporal similarity, concentration."""

import dataclasses

import jax.numpy as jnp

from resadapt_jax.losses.aggregate import Sums, WeightedSum, masked_sum, mean_per_sequence
from resadapt_jax.losses.concentration import ConcentrationConfig, concentration_penalty
from resadapt_jax.losses.policy_gradient import clipped_surrogate, surrogate_metrics
from resadapt_jax.losses.similarity import SimilarityConfig, temporal_similarity
from resadapt_jax.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllocatorLossConfig:
    """Coefficients of the allocator's objective; values of the released code.

    Attributes:
      clip_low: see ``clipped_surrogate``.
      clip_high: see ``clipped_surrogate``.
      dual_clip: see ``clipped_surrogate``.
      similarity: form and coefficients of the temporal similarity.
      similarity_weight: λ_sim.
      concentration: form of the concentration penalty.
      concentration_weight: λ_con.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = 10.0
    similarity: SimilarityConfig = SimilarityConfig()
    similarity_weight: float = 1e-3
    concentration: ConcentrationConfig = ConcentrationConfig()
    concentration_weight: float = 5e-4


def allocator_loss(
    log_probs: Float[Array, "B M K"],
    old_log_probs: Float[Array, "B M K"],
    advantages: Float[Array, "B M K"],
    mean_scales: Float[Array, "B K"],
    concentration: Float[Array, "B K"],
    unit_features: Float[Array, "B K D"],
    unit_mask: Bool[Array, "B K"],
    config: AllocatorLossConfig = AllocatorLossConfig(),
    *,
    unit_segments: Int[Array, "B K"] | None = None,
    allocation_mask: Bool[Array, "B M"] | None = None,
) -> tuple[WeightedSum, Sums]:
    """L_alloc = L_θ + λ_sim·L_sim + λ_con·L_con, eq. (23), one value per prompt, summed.

    Every term is averaged inside its prompt (over M and K as in eq. 21), so a long clip weighs as
    much as a short one, and micro-batches add up to the whole batch exactly. Differentiated with
    respect to ``log_probs``, ``mean_scales``, ``concentration`` and ``unit_features``.

    Args:
      log_probs: of each unit's action under the policy being trained.
      old_log_probs: under the policy that drew it.
      advantages: one per unit of an allocation; [B, M, 1] if its units share one.
      mean_scales: the scale of each unit by the policy's mean.
      concentration: of each unit's policy, α + β of a Beta.
      unit_features: the allocator's feature of each unit.
      unit_mask: units that exist; the others may hold anything. A prompt without units is left out.
      config: coefficients.
      unit_segments: units of other segments are no neighbours; all are of one when None.
      allocation_mask: allocations that count, all when None.

    Returns:
      The loss, whose weight is the number of prompts, and the metrics: the three terms before their
      coefficients, and those of the surrogate's record over actions (``surrogate_metrics``).

    Raises:
      ValueError: advantages without an axis for units: [B, M] could pass for [M, K].
    """
    if jnp.ndim(advantages) != 3:
        raise ValueError(f"advantages {jnp.shape(advantages)} must be [B, M, K] or [B, M, 1]")
    units = jnp.broadcast_to(unit_mask[:, None, :], log_probs.shape)
    if allocation_mask is not None:
        units = units & allocation_mask[:, :, None]
    surrogate, aux = clipped_surrogate(
        log_probs,
        old_log_probs,
        jnp.broadcast_to(advantages, log_probs.shape),
        units,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
    )
    surrogate, present = mean_per_sequence(_rows(surrogate), _rows(units))
    pairs, pair_aux = temporal_similarity(
        mean_scales, unit_features, unit_mask, config.similarity, unit_segments
    )
    similarity, _ = mean_per_sequence(pairs, pair_aux.mask)
    spread = concentration_penalty(concentration, unit_mask, config.concentration)
    spread, _ = mean_per_sequence(spread, unit_mask)
    weighted = config.similarity_weight * similarity + config.concentration_weight * spread
    loss = masked_sum(surrogate + weighted, present)
    metrics = {
        "loss": loss,
        "surrogate": masked_sum(surrogate, present),
        "similarity": masked_sum(similarity, present),
        "concentration": masked_sum(spread, present),
    }
    return loss, metrics | surrogate_metrics(aux, units)


def _rows(values: Array) -> Array:
    """[B, M, K] -> [B, M·K]: all the actions of one prompt."""
    return values.reshape(values.shape[0], -1)
