"""The head: from a unit's feature to the two parameters of its Beta policy."""

from typing import Literal

import flax.linen as nn
import jax

from resadapt_jax.allocator.attention import layer_norm
from resadapt_jax.allocator.bounds import HardClamp, ProjectedBounds, SoftBounds
from resadapt_jax.typing import Array, Float


class BetaHead(nn.Module):
    """y = W₂ GELU(W₁ LN(f) + b₁) + b₂ + W_skip f, then the bounds; float32.

    W₂ starts at zero and b₂ at the uniform policy. W_skip starts at zero too under `uniform`, so
    that the policy is uniform for every input; under `released` it keeps its framework's default
    (PyTorch: uniform in ±1/√D), which tilts the start by the input.
    """

    width: int
    bounds: ProjectedBounds | SoftBounds | HardClamp
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
