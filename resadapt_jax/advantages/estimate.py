"""One call for every estimator: the configuration's class says which."""

from resadapt_jax.advantages.baselines import (
    AccuracyOnlyConfig,
    DirectCostConfig,
    accuracy_only,
    direct_cost,
)
from resadapt_jax.advantages.capo import CapoConfig, capo
from resadapt_jax.advantages.records import AdvantageConfig, Advantages
from resadapt_jax.typing import Array, Bool, Float


def estimate(
    accuracy: Float[Array, "*B M N"],
    scales: Float[Array, "*B M K"],
    unit_mask: Bool[Array, "*B K"],
    config: AdvantageConfig,
    *,
    rewards: Float[Array, "*B M N"] | None = None,
    mask: Bool[Array, "*B M N"] | None = None,
) -> Advantages:
    """Advantages by the estimator that ``config`` belongs to. Arguments as in ``capo``.

    Raises:
      TypeError: no estimator takes this configuration.
    """
    match config:
        case CapoConfig():
            estimator = capo
        case DirectCostConfig():
            estimator = direct_cost
        case AccuracyOnlyConfig():
            estimator = accuracy_only
        case _:
            raise TypeError(f"no advantage estimator takes a {type(config).__name__}")
    return estimator(accuracy, scales, unit_mask, config, rewards=rewards, mask=mask)
