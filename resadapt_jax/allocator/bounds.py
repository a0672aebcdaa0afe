"""Bounds on the Beta's parameters: from an output y of the head to α (or β), 1 at the start.

How a bound treats the gradient decides whether training survives: a policy that no longer knows
where to look retreats to a bound, and must be able to come back.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from resadapt_jax.typing import Array, Float


def check_bounds(lower: float, upper: float) -> None:
    """Raise ValueError unless the uniform policy, α = β = 1, lies strictly between the bounds."""
    if not 0.0 < lower < 1.0 < upper:
        raise ValueError(f"need 0 < lower < 1 < upper, got {lower} and {upper}")


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def projected_exp(y: Float[Array, "..."], low: float, high: float) -> Float[Array, "..."]:
    """exp(clip(y, low, high)), with the gradient described at `ProjectedBounds`."""
    return jnp.exp(jnp.clip(y, low, high))


def _projected_exp_forward(y, low, high):
    value = projected_exp(y, low, high)
    return value, (y, value)


def _projected_exp_backward(low, high, residuals, cotangent):
    y, value = residuals
    # Descent moves against the cotangent.
    leaves = ((y >= high) & (cotangent < 0.0)) | ((y <= low) & (cotangent > 0.0))
    return (jnp.where(leaves, 0.0, cotangent * value),)


projected_exp.defvjp(_projected_exp_forward, _projected_exp_backward)


@dataclass(frozen=True, kw_only=True)
class ProjectedBounds:
    """ln α = clip(y, ln lower, ln upper), differentiated as in projected gradient descent.

    Inside the bounds the gradient is the true one, α. At a bound a gradient whose descent would
    leave the interval is dropped, and one that leads back in passes as if there were no clip: an
    output is never stuck at a bound, and none is driven ever further beyond it, as a saturating
    function's are. (Inverting gradients, Hausknecht and Stone 2016, arXiv 1511.04143, do so for
    bounded actions.) Reverse mode only.
    """

    lower: float = 0.1
    upper: float = 20.0

    def __post_init__(self):
        check_bounds(self.lower, self.upper)

    @property
    def bias(self) -> float:
        """The head's bias that starts the policy uniform (α = β = 1)."""
        return 0.0

    def __call__(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        return projected_exp(y, math.log(self.lower), math.log(self.upper))


@dataclass(frozen=True, kw_only=True)
class SoftBounds:
    """ln α = r y / (r + |y|), r = ln upper for y ≥ 0 and −ln lower for y < 0.

    A softsign of ln α whose arms end at the bounds: α(0) = 1 with slope 1, and the slope falls
    only as 1/y², so no output of the head is ever stuck at a bound.
    """

    lower: float = 0.1
    upper: float = 20.0

    def __post_init__(self):
        check_bounds(self.lower, self.upper)

    @property
    def bias(self) -> float:
        """The head's bias that starts the policy uniform (α = β = 1)."""
        return 0.0

    def __call__(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        reach = jnp.where(y < 0.0, -math.log(self.lower), math.log(self.upper))
        return jnp.exp(reach * y / (reach + jnp.abs(y)))


@dataclass(frozen=True, kw_only=True)
class HardClamp:
    """α = clip(softplus(y / 2) + δ + 1e-6, lower, upper), as in ResAdapt's released code.

    δ = 1 if `add_one`, the released second network; it starts with α = β ≈ 1.00005 and a gradient
    through the softplus of about 4.5e-5. Outside the bounds the gradient is exactly zero, and a
    policy that gets there cannot leave.
    """

    lower: float = 0.1
    upper: float = 20.0
    add_one: bool = False

    @property
    def bias(self) -> float:
        """softplus(bias / 2) = 1 (or about 4.5e-5 when one is added)."""
        return -20.0 if self.add_one else 2.0 * math.log(math.e - 1.0)

    def __call__(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        offset = 1.0 if self.add_one else 0.0
        return jnp.clip(jax.nn.softplus(0.5 * y) + offset + 1e-6, self.lower, self.upper)
