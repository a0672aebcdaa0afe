"""Bounds on a policy's parameters; their class says which distribution the policy is.

From the two outputs y of the head: to α and β of a Beta, by one of three bounds, both 1 at the
start; or to μ and σ of a logistic-normal. How a bound treats the gradient decides whether training
survives: a policy that no longer knows where to look retreats to a bound, and must be able to come
back.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from resadapt_jax.allocator.policy import Beta, LogisticNormal
from resadapt_jax.typing import Array, Float


def check_bounds(lower: float, upper: float) -> None:
    """Raise ValueError unless the uniform policy, α = β = 1, lies strictly between the bounds."""
    if not 0.0 < lower < 1.0 < upper:
        raise ValueError(f"need 0 < lower < 1 < upper, got {lower} and {upper}")


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def projected_clip(y: Float[Array, "..."], low: float, high: float) -> Float[Array, "..."]:
    """clip(y, low, high), with the gradient described at `ProjectedBounds`."""
    return jnp.clip(y, low, high)


def _projected_clip_forward(y, low, high):
    return projected_clip(y, low, high), y


def _projected_clip_backward(low, high, y, cotangent):
    # Descent moves against the cotangent.
    leaves = ((y >= high) & (cotangent < 0.0)) | ((y <= low) & (cotangent > 0.0))
    return (jnp.where(leaves, 0.0, cotangent),)


projected_clip.defvjp(_projected_clip_forward, _projected_clip_backward)


class BetaBounds:
    """The same bounds for both parameters of a Beta.

    A subclass has a ``bias``, the head's at the start, and maps an output to a parameter when
    called.
    """

    @property
    def biases(self) -> tuple[float, float]:
        return self.bias, self.bias

    def policy(self, outputs: Float[Array, "*B K 2"]) -> Beta:
        """The Beta of each unit, from the head's outputs."""
        return Beta(alpha=self(outputs[..., 0]), beta=self(outputs[..., 1]))


@dataclass(frozen=True, kw_only=True)
class ProjectedBounds(BetaBounds):
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
        return jnp.exp(projected_clip(y, math.log(self.lower), math.log(self.upper)))


@dataclass(frozen=True, kw_only=True)
class SoftBounds(BetaBounds):
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
class HardClamp(BetaBounds):
    """α = clip(softplus(y / 2) + δ + 1e-6, lower, upper), as in ResAdapt's released code.

    δ = 1 if `add_one`, the released second network; it starts with α = β ≈ 1.00005 and a gradient
    through the softplus of about 4.5e-5. Outside the bounds the gradient is exactly zero, and a
    policy that gets there cannot leave.
    """

    lower: float = 0.1
    upper: float = 20.0
    add_one: bool = False

    def __post_init__(self):
        check_bounds(self.lower, self.upper)

    @property
    def bias(self) -> float:
        """softplus(bias / 2) = 1 (or about 4.5e-5 when one is added)."""
        return -20.0 if self.add_one else 2.0 * math.log(math.e - 1.0)

    def __call__(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        offset = 1.0 if self.add_one else 0.0
        return jnp.clip(jax.nn.softplus(0.5 * y) + offset + 1e-6, self.lower, self.upper)


@dataclass(frozen=True, kw_only=True)
class LogisticNormalBounds:
    """μ = y₀ and σ = clip(softplus(y₁) + 1e-6, lower, upper) of a logistic-normal.

    The values and the start are those of ResAdapt's released code. The clip is differentiated as
    in `ProjectedBounds`; under the released one a σ that has left the bounds stays out.

    Attributes:
      lower: smallest σ.
      upper: largest σ.
      start_action: action at which the median starts; with a scale range of [0.2, 1.8] 0.5 is
        scale 1.
      start_sigma: σ at the start.
    """

    lower: float = 0.1
    upper: float = 5.0
    start_action: float = 0.5
    start_sigma: float = 0.7

    def __post_init__(self):
        if not 0.0 < self.start_action < 1.0:
            raise ValueError(f"need 0 < start_action < 1, got {self.start_action}")
        if not 1e-6 < self.lower < self.start_sigma < self.upper:
            raise ValueError(
                "need 1e-6 < lower < start_sigma < upper, got "
                f"{self.lower}, {self.start_sigma} and {self.upper}"
            )

    @property
    def biases(self) -> tuple[float, float]:
        """The head's biases at the start: the logit of the action, and the y₁ of its σ."""
        start = math.log(self.start_action / (1.0 - self.start_action))
        return start, _output_of_sigma(self.start_sigma)

    def policy(self, outputs: Float[Array, "*B K 2"]) -> LogisticNormal:
        """The logistic-normal of each unit, from the head's outputs."""
        limits = _output_of_sigma(self.lower), _output_of_sigma(self.upper)
        sigma = jax.nn.softplus(projected_clip(outputs[..., 1], *limits)) + 1e-6
        return LogisticNormal(mu=outputs[..., 0], sigma=sigma)


def _output_of_sigma(sigma: float) -> float:
    """The y with softplus(y) + 1e-6 = sigma."""
    return math.log(math.expm1(sigma - 1e-6))


Bounds = ProjectedBounds | SoftBounds | HardClamp | LogisticNormalBounds
