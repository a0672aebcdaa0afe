"""Trains an allocator with CAPO on the embedded world, against the shipped tiny backbone.

    make train

or, once installed, ``python train.py --config configs/toy.py`` and then
``python eval.py --config configs/toy.py``. The README says how long it takes and what to expect.

``--config-arg logistic_normal``, given to both, has the allocator draw from a logistic-normal
instead of a Beta.
"""

from resadapt_jax.advantages import CapoConfig
from resadapt_jax.allocator import AllocatorConfig, LogisticNormalBounds, ProjectedBounds
from resadapt_jax.training.config import TrainConfig


def get_config(arg: str = "") -> TrainConfig:
    """The toy run; ``arg`` is empty or ``logistic_normal``, the distribution of the policy."""
    if arg not in ("", "logistic_normal"):
        raise ValueError(f"the argument of configs/toy.py is logistic_normal or none, got {arg!r}")
    return TrainConfig(
        output_dir=f"runs/toy_{arg}" if arg else "runs/toy",
        num_steps=160,
        allocator=AllocatorConfig(
            width=64,
            num_heads=4,
            head_dim=16,
            pool_width=64,
            head_width=64,
            # Of a blind policy's choices, full size or none pays best: a Beta with both parameters
            # near zero, from which little is learnt. These bounds keep it nearly unimodal.
            bounds=LogisticNormalBounds() if arg else ProjectedBounds(lower=0.8, upper=10.0),
        ),
        # The released coefficients hardly press on cost in so small a world, and a positive floor
        # would cancel the cost wherever all allocations of a prompt are right.
        advantage=CapoConfig(form="released", gamma=1.0, positive_floor=None),
    )
