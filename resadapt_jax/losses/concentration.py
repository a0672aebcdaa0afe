"""Concentration: keeps the Beta policy from becoming so narrow that it stops exploring."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConcentrationConfig:
    """Which penalty of α + β.

    Attributes:
      form: ``"paper"`` is the hinge of eq. (20); ``"released"`` penalises every concentration.
      kappa_max: κ_max, concentration that is still free in the paper's form.
    """

    form: Literal["paper", "released"] = "paper"
    kappa_max: float = 10.0

    def __post_init__(self):
        if self.form not in ("paper", "released"):
            raise ValueError(f'form must be "paper" or "released", got {self.form!r}')


def concentration(
    alpha: Float[Array, "*S"],
    beta: Float[Array, "*S"],
    mask: Bool[Array, "*S"] | None = None,
    config: ConcentrationConfig = ConcentrationConfig(),
) -> Float[Array, "*S"]:
    """paper, eq. (20): max(0, α + β - κ_max); released: α + β. Per unit, 0 where masked.

    Differentiated with respect to both parameters.
    """
    total = jnp.asarray(alpha, jnp.float32) + jnp.asarray(beta, jnp.float32)
    total = total if mask is None else jnp.where(mask, total, 0.0)
    if config.form == "released":
        return total
    penalty = jax.nn.relu(total - config.kappa_max)
    return penalty if mask is None else jnp.where(mask, penalty, 0.0)
