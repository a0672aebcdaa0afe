"""The Beta policy over scales: sampling, log-density and summaries, as pure functions.

A unit's action is a ~ Beta(α, β) on (0, 1); its scale is an affine map of the action. Ratios are
taken on actions, since the map's Jacobian is the same for every parameter value. All values are
float32 whatever the network computed in: a rounded action would move the ratio away from 1.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, betaln, digamma

from resadapt_jax.typing import Array, Float, Key

# Draws of float32 Beta variates reach 0 and 1 exactly, where the log-density is infinite.
ACTION_EPS = 1e-6

# Each bisection halves the bracket; 2⁻³² is below the spacing of float32 just under 1.
QUANTILE_STEPS = 32


@dataclass(frozen=True, kw_only=True)
class ScaleRange:
    """The interval of scales that actions in (0, 1) are mapped to (factors per image side)."""

    s_min: float = 0.2
    s_max: float = 1.8

    def __post_init__(self):
        if not 0.0 < self.s_min < self.s_max:
            raise ValueError(f"need 0 < s_min < s_max, got {self.s_min} and {self.s_max}")


def sample(
    key: Key[Array, ""], alpha: Float[Array, "B K"], beta: Float[Array, "B K"], num_samples: int
) -> Float[Array, "B M K"]:
    """a ~ Beta(α, β), clipped into [ε, 1 − ε] as drawn; ResAdapt (10), arXiv 2603.28610.

    Args:
      key: a typed key; one key draws the whole batch.
      alpha, beta: positive parameters of each unit.
      num_samples: M, the allocations drawn per prompt.

    Returns:
      float32 actions, independent over B, M and K. Nothing is differentiated.
    """
    alpha, beta = (jax.lax.stop_gradient(_float32(x))[:, None, :] for x in (alpha, beta))
    shape = (alpha.shape[0], num_samples, alpha.shape[2])
    return _inside(jax.random.beta(key, alpha, beta, shape, jnp.float32))


def log_prob(
    actions: Float[Array, "..."], alpha: Float[Array, "..."], beta: Float[Array, "..."]
) -> Float[Array, "..."]:
    """ln Beta(a; α, β) = (α−1) ln a + (β−1) ln(1−a) − ln B(α, β), per element.

    The summand of ResAdapt (11), arXiv 2603.28610; kept per unit because ratios are clipped per
    unit (22). Actions are held to [ε, 1 − ε], so values and the gradients with respect to α and
    β are finite on the closed interval; drawn actions are inside already and are not changed.

    Args:
      actions, alpha, beta: arrays of equal rank that broadcast, e.g. [B M K], [B 1 K], [B 1 K].

    Returns:
      float32, the broadcast shape. Differentiable in α, β (and in a, strictly inside). Equal
      arguments give equal bits within one compiled program; another program may fuse otherwise
      and differ by a few units in the last place.
    """
    actions, alpha, beta = _inside(_float32(actions)), _float32(alpha), _float32(beta)
    inside = (alpha - 1.0) * jnp.log(actions) + (beta - 1.0) * jnp.log1p(-actions)
    return inside - betaln(alpha, beta)


def entropy(alpha: Float[Array, "..."], beta: Float[Array, "..."]) -> Float[Array, "..."]:
    """H = ln B(α, β) + (α−1)(ψ(α+β) − ψ(α)) + (β−1)(ψ(α+β) − ψ(β)), in nats, per element."""
    alpha, beta = _float32(alpha), _float32(beta)
    # Differences of digammas first: the usual form cancels terms of size α ln α.
    both = digamma(alpha + beta)
    spread = (alpha - 1.0) * (both - digamma(alpha)) + (beta - 1.0) * (both - digamma(beta))
    return betaln(alpha, beta) + spread


def mean(alpha: Float[Array, "..."], beta: Float[Array, "..."]) -> Float[Array, "..."]:
    """E[a] = α / (α + β): the deterministic action used at inference; differentiable."""
    alpha, beta = _float32(alpha), _float32(beta)
    return alpha / (alpha + beta)


def variance(alpha: Float[Array, "..."], beta: Float[Array, "..."]) -> Float[Array, "..."]:
    """Var[a] = αβ / ((α + β)² (α + β + 1)), per element."""
    alpha, beta = _float32(alpha), _float32(beta)
    return mean(alpha, beta) * mean(beta, alpha) / (alpha + beta + 1.0)


def quantile(
    probability: Float[Array, "..."], alpha: Float[Array, "..."], beta: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The action a with P(A ≤ a) = probability, by bisection of the regularised incomplete beta.

    A fixed number of steps, so it traces; the three arguments broadcast. Held to [ε, 1 − ε] like
    every action. Not differentiable.
    """
    arguments = (_float32(x) for x in (probability, alpha, beta))
    probability, alpha, beta = jnp.broadcast_arrays(*arguments)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        below = betainc(alpha, beta, middle) < probability
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    bracket = (jnp.zeros_like(alpha), jnp.ones_like(alpha))
    low, high = jax.lax.fori_loop(0, QUANTILE_STEPS, halve, bracket)
    return jax.lax.stop_gradient(_inside(0.5 * (low + high)))


def to_scale(actions: Float[Array, "..."], scale_range: ScaleRange) -> Float[Array, "..."]:
    """s = s_min + a (s_max − s_min); ResAdapt (10), arXiv 2603.28610."""
    return scale_range.s_min + _float32(actions) * (scale_range.s_max - scale_range.s_min)


def from_scale(scales: Float[Array, "..."], scale_range: ScaleRange) -> Float[Array, "..."]:
    """a = (s − s_min) / (s_max − s_min), the inverse of `to_scale`."""
    return (_float32(scales) - scale_range.s_min) / (scale_range.s_max - scale_range.s_min)


def _float32(x):
    return jnp.asarray(x, jnp.float32)


def _inside(actions):
    return jnp.clip(actions, ACTION_EPS, 1.0 - ACTION_EPS)
