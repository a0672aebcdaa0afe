"""One call for every estimator: the configuration's class says which."""

from resadapt_jax.advantages.baselines import (
    DirectCostConfig,
    GdpoConfig,
    PiecewiseConfig,
    direct_cost,
    gdpo,
    piecewise,
)
from resadapt_jax.advantages.capo import CapoConfig, capo
from resadapt_jax.advantages.group import Advantages, Group
from resadapt_jax.advantages.grpo import GrpoConfig, grpo
from resadapt_jax.advantages.unit_cost import UnitCostConfig, unit_cost

AdvantageConfig = (
    CapoConfig | GrpoConfig | DirectCostConfig | GdpoConfig | PiecewiseConfig | UnitCostConfig
)


def estimate(group: Group, config: AdvantageConfig) -> Advantages:
    """Advantages by the estimator that ``config`` belongs to.

    Raises:
      TypeError: no estimator takes this configuration.
    """
    match config:
        case CapoConfig():
            return capo(group, config)
        case GrpoConfig():
            return grpo(group, config)
        case DirectCostConfig():
            return direct_cost(group, config)
        case GdpoConfig():
            return gdpo(group, config)
        case PiecewiseConfig():
            return piecewise(group, config)
        case UnitCostConfig():
            return unit_cost(group, config)
    raise TypeError(f"no advantage estimator takes a {type(config).__name__}")
