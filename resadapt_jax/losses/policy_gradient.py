"""The clipped policy-gradient surrogate, per action or per token, and importance weights."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from resadapt_jax.losses.aggregate import Sums, masked_extremes, masked_sum
from resadapt_jax.typing import Array, Bool, Float

# Beyond it exp() says nothing more about the policy and soon overflows (as in verl).
MAX_LOG_RATIO = 20.0


@struct.dataclass
class SurrogateAux:
    """What the surrogate saw, per element (float32); masked elements show an unchanged policy."""

    ratio: Float[Array, "*S"]  # importance ratio
    clipped_high: Float[Array, "*S"]  # 1 where the upper clip removed the gradient
    clipped_low: Float[Array, "*S"]  # 1 where the lower clip did
    dual_clipped: Float[Array, "*S"]  # 1 where the dual clip did
    approximate_kl: Float[Array, "*S"]  # r - 1 - log r, unbiased for KL(old || new)


def clipped_surrogate(
    log_probs: Float[Array, "*S"],
    old_log_probs: Float[Array, "*S"],
    advantages: Float[Array, "*S"],
    mask: Bool[Array, "*S"] | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = 10.0,
) -> tuple[Float[Array, "*S"], SurrogateAux]:
    """L = -min(r·A, clip(r, 1 - clip_low, 1 + clip_high)·A), and at most -dual_clip·A where A < 0.

    ResAdapt eq. (21), (22) and (24), (25), per element, to be minimised; the asymmetric range is
    DAPO's clip-higher, the bound for A < 0 dual-clip PPO's. Only ``log_probs`` is differentiated.
    On a clip boundary the gradient is still that of r·A.

    Args:
      log_probs: log-probability of each action under the policy being trained.
      old_log_probs: under the policy that drew it.
      advantages: advantage of each action; broadcast it first, the shapes must be equal.
      mask: elements that count. The others may hold anything, NaN included; they give 0.
      clip_low: how far below 1 the ratio may fall before a negative advantage stops pushing.
      clip_high: how far above 1 it may rise before a positive advantage stops pushing.
      dual_clip: ratio beyond which a negative advantage stops pushing; None for no bound.

    Raises:
      ValueError: shapes that differ, or a dual clip that is not above 1.
    """
    if dual_clip is not None and dual_clip <= 1.0:
        raise ValueError(f"dual_clip must be above 1, got {dual_clip}")
    log_probs, old_log_probs, advantages = clean(
        mask, log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages
    )
    old_log_probs, advantages = jax.lax.stop_gradient((old_log_probs, advantages))
    log_ratio = jnp.clip(log_probs - old_log_probs, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = jnp.exp(log_ratio)
    # min(r·A, clip(r)·A) is A·min(r, 1 + high) for A > 0 and A·max(r, 1 - low) for A < 0. Written
    # with `where`, no gradient is split between equal branches of a minimum.
    high = (advantages > 0) & (ratio > 1.0 + clip_high)
    low = (advantages < 0) & (ratio < 1.0 - clip_low)
    limit = jnp.inf if dual_clip is None else dual_clip
    dual = (advantages < 0) & (ratio > limit)
    bounded = jnp.where(high, 1.0 + clip_high, jnp.where(low, 1.0 - clip_low, ratio))
    bounded = jnp.where(dual, limit, bounded)
    aux = SurrogateAux(
        ratio=ratio,
        clipped_high=high.astype(jnp.float32),
        clipped_low=low.astype(jnp.float32),
        dual_clipped=dual.astype(jnp.float32),
        approximate_kl=ratio - 1.0 - log_ratio,
    )
    return -bounded * advantages, jax.lax.stop_gradient(aux)


def importance_weight(
    log_probs: Float[Array, "*S K"],
    old_log_probs: Float[Array, "*S K"],
    mask: Bool[Array, "*S K"] | None = None,
) -> Float[Array, "*S"]:
    """ω = exp(Σ_t [log q_θ'(a_t) - log q_old(a_t)]), the importance ratio of a whole allocation.

    ResAdapt's ``ispred``: the answers' advantages are multiplied by it where the backbone learns
    after the allocator has moved. The sum is bounded to ±20; nothing is differentiated.

    Args:
      log_probs: of each unit's action under the policy that was just updated.
      old_log_probs: under the policy that drew it.
      mask: units that exist; the others may hold anything.
    """
    new, old = clean(mask, log_probs=log_probs, old_log_probs=old_log_probs)
    log_ratio = jnp.clip(jnp.sum(new - old, -1), -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return jax.lax.stop_gradient(jnp.exp(log_ratio))


def surrogate_metrics(aux: SurrogateAux, mask: Bool[Array, "*S"] | None = None) -> Sums:
    """The average of each field over the elements that count, and how far log-ratios went."""
    names = [field.name for field in dataclasses.fields(aux)]
    means = {name: masked_sum(getattr(aux, name), mask) for name in names}
    return means | {"log_ratio": masked_extremes(jnp.log(aux.ratio), mask)}


def clean(mask: Array | None, **arrays: Array) -> tuple[Array, ...]:
    """Arrays in float32, 0 where masked: masking a result would let 0·NaN into its gradient.

    Raises:
      ValueError: shapes that differ.
    """
    shapes = [jnp.shape(array) for array in (*arrays.values(), *([] if mask is None else [mask]))]
    if len(set(shapes)) > 1:
        raise ValueError(f"{', '.join(arrays)}, mask differ in shape: {shapes}")
    cleaned = tuple(jnp.asarray(array, jnp.float32) for array in arrays.values())
    if mask is None:
        return cleaned
    return tuple(jnp.where(mask, array, 0.0) for array in cleaned)
