"""Losses: arrays and a frozen config in, per-element values and a record out, reduced once.

Each loss masks its inputs, so padding may hold anything; ``aggregate`` reduces to a
``WeightedSum``, divided after micro-batches and devices have been added up.
"""

from resadapt_jax.losses.aggregate import (
    Extremes,
    Sums,
    WeightedSum,
    add_sums,
    aggregate,
    masked_sum,
    mean_per_sequence,
)
from resadapt_jax.losses.allocator import AllocatorLossConfig, allocator_loss
from resadapt_jax.losses.backbone import BackboneLossConfig, backbone_loss
from resadapt_jax.losses.concentration import ConcentrationConfig, concentration_penalty
from resadapt_jax.losses.kl import kl_penalty
from resadapt_jax.losses.policy_gradient import (
    SurrogateAux,
    clipped_surrogate,
    importance_weight,
)
from resadapt_jax.losses.similarity import (
    SimilarityAux,
    SimilarityConfig,
    temporal_similarity,
)

__all__ = [
    "AllocatorLossConfig",
    "BackboneLossConfig",
    "ConcentrationConfig",
    "Extremes",
    "SimilarityAux",
    "SimilarityConfig",
    "Sums",
    "SurrogateAux",
    "WeightedSum",
    "add_sums",
    "aggregate",
    "allocator_loss",
    "backbone_loss",
    "clipped_surrogate",
    "concentration_penalty",
    "importance_weight",
    "kl_penalty",
    "masked_sum",
    "mean_per_sequence",
    "temporal_similarity",
]
