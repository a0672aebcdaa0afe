"""The policy over scales, a frozen record: sampling, log-density and summaries of actions.

A unit's action a is drawn on (0, 1), from a Beta or from a logistic-normal; its scale is an affine
map of the action. Both records have the same methods, so that rollouts and losses need not know
which they hold. Ratios are taken on actions, since the map's Jacobian is the same for every
parameter value. All values are float32 whatever the network computed in: a rounded action would
move the ratio away from 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.special import betainc, betaln, digamma, ndtri

from resadapt_jax.typing import Array, Float, Key

# Draws of float32 Beta variates reach 0 and 1 exactly, where the log-density is infinite.
ACTION_EPS = 1e-6

# Each bisection halves the bracket; 2⁻³² is below the spacing of float32 just under 1.
QUANTILE_STEPS = 32

# Nodes of a Gauss-Hermite rule; 64 hold entropy and variance to 1e-4 up to σ = 5.
QUADRATURE_NODES = 64


@dataclass(frozen=True, kw_only=True)
class ScaleRange:
    """The interval of scales that actions in (0, 1) are mapped to (factors per image side)."""

    s_min: float = 0.2
    s_max: float = 1.8

    def __post_init__(self):
        if not 0.0 < self.s_min < self.s_max:
            raise ValueError(f"need 0 < s_min < s_max, got {self.s_min} and {self.s_max}")


@struct.dataclass
class Beta:
    """a ~ Beta(α, β), independent over units; ResAdapt (10), arXiv 2603.28610."""

    alpha: Float[Array, "*B K"]  # positive
    beta: Float[Array, "*B K"]  # positive

    def sample(self, key: Key[Array, ""], num_samples: int) -> Float[Array, "*B M K"]:
        """M actions per unit, clipped into [ε, 1 − ε] as drawn.

        Args:
          key: a typed key; one key draws the whole batch.
          num_samples: M, the allocations drawn per prompt.

        Returns:
          float32 actions, independent over B, M and K. Nothing is differentiated.
        """
        alpha, beta = (jax.lax.stop_gradient(_per_allocation(x)) for x in self._parameters())
        shape = (*alpha.shape[:-2], num_samples, alpha.shape[-1])
        return _inside(jax.random.beta(key, alpha, beta, shape, jnp.float32))

    def log_prob(self, actions: Float[Array, "*B M K"]) -> Float[Array, "*B M K"]:
        """ln Beta(a; α, β) = (α−1) ln a + (β−1) ln(1−a) − ln B(α, β), per element.

        The summand of ResAdapt (11), arXiv 2603.28610; kept per unit because ratios are clipped
        per unit (22). Actions are held to [ε, 1 − ε], so values and the gradients with respect to
        α and β are finite on the closed interval; drawn actions are inside already and are not
        changed.

        Returns:
          float32. Differentiable in α, β (and in a, strictly inside). Equal arguments give equal
          bits within one compiled program; another program may fuse otherwise and differ by a few
          units in the last place.
        """
        actions = _inside(_float32(actions))
        alpha, beta = (_per_allocation(x) for x in self._parameters())
        inside = (alpha - 1.0) * jnp.log(actions) + (beta - 1.0) * jnp.log1p(-actions)
        return inside - betaln(alpha, beta)

    def mean(self) -> Float[Array, "*B K"]:
        """E[a] = α / (α + β): the deterministic action used at inference; differentiable."""
        alpha, beta = self._parameters()
        return alpha / (alpha + beta)

    def variance(self) -> Float[Array, "*B K"]:
        """Var[a] = αβ / ((α + β)² (α + β + 1))."""
        alpha, beta = self._parameters()
        total = alpha + beta
        return (alpha / total) * (beta / total) / (total + 1.0)

    def entropy(self) -> Float[Array, "*B K"]:
        """H = ln B(α, β) + (α−1)(ψ(α+β) − ψ(α)) + (β−1)(ψ(α+β) − ψ(β)), in nats."""
        alpha, beta = self._parameters()
        # Differences of digammas first: the usual form cancels terms of size α ln α.
        both = digamma(alpha + beta)
        spread = (alpha - 1.0) * (both - digamma(alpha)) + (beta - 1.0) * (both - digamma(beta))
        return betaln(alpha, beta) + spread

    def concentration(self) -> Float[Array, "*B K"]:
        """κ = α + β, of ResAdapt (20); differentiable."""
        alpha, beta = self._parameters()
        return alpha + beta

    def quantile(self, probability: float | Float[Array, "*B K"]) -> Float[Array, "*B K"]:
        """The action a with P(A ≤ a) = probability, by bisection of the incomplete beta function.

        A fixed number of steps, so it traces. Held to [ε, 1 − ε] like every action. Not
        differentiable.
        """
        alpha, beta = self._parameters()
        probability, alpha, beta = jnp.broadcast_arrays(_float32(probability), alpha, beta)

        def halve(_, bracket):
            low, high = bracket
            middle = 0.5 * (low + high)
            below = betainc(alpha, beta, middle) < probability
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        bracket = (jnp.zeros_like(alpha), jnp.ones_like(alpha))
        low, high = jax.lax.fori_loop(0, QUANTILE_STEPS, halve, bracket)
        return jax.lax.stop_gradient(_inside(0.5 * (low + high)))

    def _parameters(self):
        return _float32(self.alpha), _float32(self.beta)


@struct.dataclass
class LogisticNormal:
    """a = sigmoid(u), u ~ N(μ, σ²), independent over units: 𝒩-CAPO of ResAdapt's ablations."""

    mu: Float[Array, "*B K"]
    sigma: Float[Array, "*B K"]  # positive

    def sample(self, key: Key[Array, ""], num_samples: int) -> Float[Array, "*B M K"]:
        """M actions per unit, as `Beta.sample`."""
        mu, sigma = (jax.lax.stop_gradient(_per_allocation(x)) for x in self._parameters())
        shape = (*mu.shape[:-2], num_samples, mu.shape[-1])
        return _inside(jax.nn.sigmoid(mu + sigma * jax.random.normal(key, shape, jnp.float32)))

    def log_prob(self, actions: Float[Array, "*B M K"]) -> Float[Array, "*B M K"]:
        """ln N(logit a; μ, σ²) − ln a − ln(1−a), per element; guarded as `Beta.log_prob` is."""
        actions = _inside(_float32(actions))
        mu, sigma = (_per_allocation(x) for x in self._parameters())
        log_a, log_rest = jnp.log(actions), jnp.log1p(-actions)
        deviation = (log_a - log_rest - mu) / sigma
        normal = -0.5 * jnp.square(deviation) - jnp.log(sigma) - 0.5 * math.log(2.0 * math.pi)
        return normal - log_a - log_rest

    def mean(self) -> Float[Array, "*B K"]:
        """sigmoid(μ / √(1 + πσ²/8)), the deterministic action used at inference; differentiable.

        As in the released code: an approximation of E[a], which has no closed form.
        """
        mu, sigma = self._parameters()
        return jax.nn.sigmoid(mu / jnp.sqrt(1.0 + math.pi / 8.0 * jnp.square(sigma)))

    def variance(self) -> Float[Array, "*B K"]:
        """Var[a], about the true E[a]; by Gauss-Hermite quadrature, as there is no closed form."""
        first = self._expect(jax.nn.sigmoid)
        return self._expect(lambda u: jnp.square(jax.nn.sigmoid(u) - first[..., None]))

    def entropy(self) -> Float[Array, "*B K"]:
        """H = ½ ln(2πeσ²) + E[ln a + ln(1−a)], in nats; E by Gauss-Hermite quadrature."""
        _, sigma = self._parameters()
        normal = 0.5 * math.log(2.0 * math.pi * math.e) + jnp.log(sigma)
        return normal - self._expect(lambda u: jax.nn.softplus(u) + jax.nn.softplus(-u))

    def concentration(self) -> Float[Array, "*B K"]:
        """1 / σ, as in the released code; differentiable."""
        return 1.0 / self._parameters()[1]

    def quantile(self, probability: float | Float[Array, "*B K"]) -> Float[Array, "*B K"]:
        """sigmoid(μ + σ z), z the normal quantile; held to [ε, 1 − ε]. Not differentiable."""
        mu, sigma = self._parameters()
        probability, mu, sigma = jnp.broadcast_arrays(_float32(probability), mu, sigma)
        return jax.lax.stop_gradient(_inside(jax.nn.sigmoid(mu + sigma * ndtri(probability))))

    def _expect(self, function: Callable[[Array], Array]) -> Float[Array, "*B K"]:
        """E[f(u)], u ~ N(μ, σ²); f is given u with the nodes as last axis."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
        mu, sigma = self._parameters()
        u = mu[..., None] + jnp.multiply.outer(sigma, np.float32(nodes))
        return function(u) @ np.float32(weights / weights.sum())

    def _parameters(self):
        return _float32(self.mu), _float32(self.sigma)


Policy = Beta | LogisticNormal


def to_scale(actions: Float[Array, "..."], scale_range: ScaleRange) -> Float[Array, "..."]:
    """s = s_min + a (s_max − s_min); ResAdapt (10), arXiv 2603.28610."""
    return scale_range.s_min + _float32(actions) * (scale_range.s_max - scale_range.s_min)


def from_scale(scales: Float[Array, "..."], scale_range: ScaleRange) -> Float[Array, "..."]:
    """a = (s − s_min) / (s_max − s_min), the inverse of `to_scale`."""
    return (_float32(scales) - scale_range.s_min) / (scale_range.s_max - scale_range.s_min)


def _float32(x):
    return jnp.asarray(x, jnp.float32)


def _per_allocation(parameter: Float[Array, "*B K"]) -> Float[Array, "*B 1 K"]:
    return parameter[..., None, :]


def _inside(actions):
    return jnp.clip(actions, ACTION_EPS, 1.0 - ACTION_EPS)
