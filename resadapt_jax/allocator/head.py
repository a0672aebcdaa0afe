"""The head: from a unit's feature to its policy."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from resadapt_jax.allocator.bounds import Bounds
from resadapt_jax.allocator.layers import layer_norm
from resadapt_jax.allocator.policy import Policy
from resadapt_jax.typing import Array, Bool, Float


class PolicyHead(nn.Module):
    """y = W₂ GELU(W₁ LN(f) + b₁) + b₂ + W_skip f, then the bounds' policy; float32.

    W₂ starts at zero and b₂ where the bounds say. W_skip starts at zero too under `uniform`, so
    that the policy is the same for every input (a Beta's is uniform); under `released` it keeps
    its framework's default (PyTorch: uniform in ±1/√D), which tilts the start by the input. A unit
    that does not exist has the policy of the start.
    """

    width: int
    bounds: Bounds
    start: Literal["uniform", "released"]

    @nn.compact
    def __call__(self, features: Float[Array, "B K D"], unit_mask: Bool[Array, "B K"]) -> Policy:
        biases = jnp.array(self.bounds.biases, jnp.float32)
        y = layer_norm("norm")(features)
        y = jax.nn.gelu(nn.Dense(self.width, name="hidden")(y), approximate=False)
        y = nn.Dense(
            2,
            kernel_init=nn.initializers.zeros,
            bias_init=lambda *_: biases,
            name="out",
        )(y)
        # Variance 1 / (3 D) is that of a uniform in ±1/√D.
        default = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
        skip_init = nn.initializers.zeros if self.start == "uniform" else default
        skip = nn.Dense(2, use_bias=False, kernel_init=skip_init, name="skip")(features)
        return self.bounds.policy(jnp.where(unit_mask[..., None], y + skip, biases[None, None]))
