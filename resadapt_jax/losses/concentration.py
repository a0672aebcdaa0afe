"""Concentration: keeps the policy from becoming so narrow that it stops exploring."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from resadapt_jax.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConcentrationConfig:
    """Which penalty of the concentration κ.

    Attributes:
      form: ``"paper"`` is the hinge of eq. (20); ``"released"`` penalises every concentration.
      kappa_max: κ_max, concentration that is still free in the paper's form; a logistic-normal
        within the released bounds, σ ≥ 0.1, never passes the default.
    """

    form: Literal["paper", "released"] = "paper"
    kappa_max: float = 10.0

    def __post_init__(self):
        if self.form not in ("paper", "released"):
            raise ValueError(f'form must be "paper" or "released", got {self.form!r}')


def concentration_penalty(
    concentration: Float[Array, "*S"],
    mask: Bool[Array, "*S"] | None = None,
    config: ConcentrationConfig = ConcentrationConfig(),
) -> Float[Array, "*S"]:
    """paper, eq. (20): max(0, κ - κ_max); released: κ. Per unit, 0 where masked.

    κ is α + β of a Beta, 1 / σ of a logistic-normal. Differentiated with respect to it.
    """
    kappa = jnp.asarray(concentration, jnp.float32)
    kappa = kappa if mask is None else jnp.where(mask, kappa, 0.0)
    if config.form == "released":
        return kappa
    penalty = jax.nn.relu(kappa - config.kappa_max)
    return penalty if mask is None else jnp.where(mask, penalty, 0.0)
