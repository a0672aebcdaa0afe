"""The divergence from a reference policy, estimated from the tokens that were drawn."""

from typing import Literal

import jax
import jax.numpy as jnp

from resadapt_jax.losses.policy_gradient import MAX_LOG_RATIO, clean
from resadapt_jax.typing import Array, Bool, Float

KlEstimator = Literal["k1", "k2", "k3"]


def kl_penalty(
    log_probs: Float[Array, "*S"],
    ref_log_probs: Float[Array, "*S"],
    mask: Bool[Array, "*S"] | None = None,
    *,
    estimator: KlEstimator = "k3",
) -> Float[Array, "*S"]:
    """KL(π || π_ref) from tokens drawn from π, with r = log π - log π_ref, bounded to ±20:

    ``"k1"``: r. Unbiased, of either sign. Its gradient, ∇log π, is 0 on average: to be logged, not
    to be a loss.
    ``"k2"``: r²/2. Biased; its gradient, r·∇log π, is an unbiased one of KL(π || π_ref).
    ``"k3"``: e^-r - 1 + r. Unbiased, never negative, and what GRPO adds to its loss; its gradient,
    (1 - e^-r)·∇log π, is an unbiased one of KL(π_ref || π), the other direction.

    The three are J. Schulman's, http://joschu.net/blog/kl-approx.html. All this holds where the
    tokens are the policy's own; those of an older policy are not reweighted. Only ``log_probs`` is
    differentiated.

    Raises:
      ValueError: another estimator, or shapes that differ.
    """
    new, ref = clean(mask, log_probs=log_probs, ref_log_probs=ref_log_probs)
    log_ratio = jnp.clip(new - jax.lax.stop_gradient(ref), -MAX_LOG_RATIO, MAX_LOG_RATIO)
    match estimator:
        case "k1":
            return log_ratio
        case "k2":
            return 0.5 * log_ratio**2
        case "k3":
            return jnp.expm1(-log_ratio) + log_ratio
    raise ValueError(f"unknown estimator {estimator!r} of the divergence")
