"""What a scale does: legal sizes, a token budget kept, grids, and the cost that results."""

from resadapt_jax.operators.budget import FittedScales, fit_budget, fit_clips, require_feasible
from resadapt_jax.operators.capacity_ladder import CapacityLadder
from resadapt_jax.operators.grids import grid_tokens, grids, native_grids, token_counts
from resadapt_jax.operators.native_sizes import NativeSizes, sizes_from_scales
from resadapt_jax.operators.retention import cache_retention, layer_retention, retention
from resadapt_jax.operators.sizes import (
    MAX_SCALE,
    SizeLimits,
    check_scales,
    scaled_size,
    smart_resize,
)

__all__ = [
    "MAX_SCALE",
    "CapacityLadder",
    "FittedScales",
    "NativeSizes",
    "SizeLimits",
    "cache_retention",
    "check_scales",
    "fit_budget",
    "fit_clips",
    "grid_tokens",
    "grids",
    "layer_retention",
    "native_grids",
    "require_feasible",
    "retention",
    "scaled_size",
    "sizes_from_scales",
    "smart_resize",
    "token_counts",
]
