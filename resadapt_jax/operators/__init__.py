"""What a scale does: legal sizes, a token budget kept, grids, and the cost that results."""

from resadapt_jax.operators.budget import FittedScales, fit_budget, fit_clips, require_feasible
from resadapt_jax.operators.capacity import CapacityLadder
from resadapt_jax.operators.retention import (
    cache_retention,
    grids,
    layer_retention,
    native_grids,
    native_tokens,
    retention,
    token_counts,
)
from resadapt_jax.operators.sizes import (
    MAX_SCALE,
    SizeLimits,
    check_scales,
    scaled_size,
    sizes_from_scales,
    smart_resize,
)

__all__ = [
    "MAX_SCALE",
    "CapacityLadder",
    "FittedScales",
    "SizeLimits",
    "cache_retention",
    "check_scales",
    "fit_budget",
    "fit_clips",
    "grids",
    "layer_retention",
    "native_grids",
    "native_tokens",
    "require_feasible",
    "retention",
    "scaled_size",
    "sizes_from_scales",
    "smart_resize",
    "token_counts",
]
