"""The head: from a unit's feature to the two parameters of its Beta policy."""

import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from resadapt_jax.allocator.attention import layer_norm
from resadapt_jax.typing import Array, Float


@dataclass(frozen=True, kw_only=True)
class SoftBounds:
    """ln α = r y / (r + |y|), r = ln upper for y ≥ 0 and −ln lower for y < 0.

    A softsign of ln α whose arms end at the bounds: α(0) = 1 with slope 1, and the slope falls
    only as 1/y², so no output of the head is ever stuck at a bound.
    """

    lower: float = 0.1
    upper: float = 20.0

    def __post_init__(self):
        if not 0.0 < self.lower < 1.0 < self.upper:
            raise ValueError(f"need 0 < lower < 1 < upper, got {self.lower} and {self.upper}")

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


class BetaHead(nn.Module):
    """y = W₂ GELU(W₁ LN(f) + b₁) + b₂ + W_skip f, then the bounds; float32.

    W₂ starts at zero and b₂ at the uniform policy. W_skip starts at zero too under `uniform`, so
    that the policy is uniform for every input; under `released` it keeps its framework's default
    (PyTorch: uniform in ±1/√D), which tilts the start by the input.
    """

    width: int
    bounds: SoftBounds | HardClamp
    start: Literal["uniform", "released"]

    @nn.compact
    def __call__(
        self, features: Float[Array, "B K D"]
    ) -> tuple[Float[Array, "B K"], Float[Array, "B K"]]:
        y = layer_norm("norm")(features)
        y = jax.nn.gelu(nn.Dense(self.width, name="hidden")(y), approximate=False)
        y = nn.Dense(
            2,
            kernel_init=nn.initializers.zeros,
            bias_init=nn.initializers.constant(self.bounds.bias),
            name="out",
        )(y)
        # Variance 1 / (3 D) is that of a uniform in ±1/√D.
        default = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
        skip_init = nn.initializers.zeros if self.start == "uniform" else default
        skip = nn.Dense(2, use_bias=False, kernel_init=skip_init, name="skip")(features)
        parameters = self.bounds(y + skip)
        return parameters[..., 0], parameters[..., 1]
