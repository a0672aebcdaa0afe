"""The allocator: frozen encoder features, a network, and a policy over each unit's scale."""

from resadapt_jax.allocator import policy
from resadapt_jax.allocator.bounds import (
    HardClamp,
    LogisticNormalBounds,
    ProjectedBounds,
    SoftBounds,
)
from resadapt_jax.allocator.encoder import (
    EncoderFeatures,
    FrozenEncoder,
    Pictures,
    SmolVLMEncoderConfig,
    ThumbnailConfig,
    ThumbnailEncoder,
    standardise,
)
from resadapt_jax.allocator.network import (
    AllocatorConfig,
    AllocatorNetwork,
    AllocatorOutput,
    allocate,
    count_params,
    init_params,
    mean_pair_scales,
)
from resadapt_jax.allocator.policy import Beta, LogisticNormal, Policy, ScaleRange
from resadapt_jax.allocator.units import pair_mask, pair_mean, pair_scales

__all__ = [
    "AllocatorConfig",
    "AllocatorNetwork",
    "AllocatorOutput",
    "Beta",
    "EncoderFeatures",
    "FrozenEncoder",
    "HardClamp",
    "LogisticNormal",
    "LogisticNormalBounds",
    "Pictures",
    "Policy",
    "ProjectedBounds",
    "ScaleRange",
    "SmolVLMEncoderConfig",
    "SoftBounds",
    "ThumbnailConfig",
    "ThumbnailEncoder",
    "allocate",
    "count_params",
    "init_params",
    "mean_pair_scales",
    "pair_mask",
    "pair_mean",
    "pair_scales",
    "policy",
    "standardise",
]
