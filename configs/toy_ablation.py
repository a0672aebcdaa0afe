"""Variants of the toy run, each another in one thing, for ``benchmarks/evidence.py``.

    python train.py --config configs/toy_ablation.py --config-arg capo_paper --seed 1

The argument is a method:

* ``accuracy``: no cost at all;
* ``direct_cost``: the cost inside the group normalisation, as a part of the reward;
* ``gdpo``: accuracy and cost normalised each by itself;
* ``cost_outside``: the cost behind the normalisation, without CAPO's shaping;
* ``capo_paper``, ``capo_released``: the shaping in the paper's form or in that of the release;

alone or followed by ``+similarity_paper`` or ``+similarity_released``;

* ``accuracy_uncapped``, ``capo_released_uncapped``: the method with rollouts that hold every clip
  at full size;
* ``unit_cost``: our own. The cost is credited to the unit that caused it, pressing as hard on a
  unit as ``cost_outside`` does on an allocation, and only where answers are right;
* ``logistic_normal``, ``per_frame``, ``joint``: ``capo_released`` drawing from that instead of a
  Beta, acting on frames instead of pairs, training the backbone beside the allocator.

``hard_`` before a method of the first list is the method on `data.toy_world.HARD_WORLD`, with the
backbone of ``configs/toy_pretrain.py --config-arg hard``.
"""

from dataclasses import replace
from pathlib import Path

from resadapt_jax.advantages import (
    AdvantageConfig,
    CapoConfig,
    DirectCostConfig,
    GdpoConfig,
    GrpoConfig,
    UnitCostConfig,
)
from resadapt_jax.allocator import LogisticNormalBounds
from resadapt_jax.config import load_config
from resadapt_jax.data.toy_world import HARD_WORLD
from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.losses import SimilarityConfig
from resadapt_jax.models.compute import Remat
from resadapt_jax.training.config import BackboneTrainingConfig, TrainConfig
from resadapt_jax.training.optimizer import OptimizerConfig

# Wherever the cost is outside the normalisation: the released .05 saves next to nothing in so small
# a world. No floor: it would cancel the cost in groups that are all right.
GAMMA = 1.0
METHODS: dict[str, AdvantageConfig] = {
    "accuracy": GrpoConfig(),
    "direct_cost": DirectCostConfig(),
    "gdpo": GdpoConfig(),
    "cost_outside": DirectCostConfig(normalised=False, cost_weight=GAMMA),
    "capo_paper": CapoConfig(form="paper", gamma=GAMMA, positive_floor=None),
    "capo_released": CapoConfig(form="released", gamma=GAMMA, positive_floor=None),
}
# The released weight, 1e-3, is not felt here. The paper gives no η; this one penalises similar
# neighbours whose scales multiply to more than 1/e.
SIMILARITIES = {
    "similarity_paper": SimilarityConfig(form="paper", margin=1.0),
    "similarity_released": SimilarityConfig(form="released"),
}
SIMILARITY_WEIGHT = 0.1
# Many small passes compile longer and run faster; what is answered is the same.
CAPACITY_SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
HARD_BACKBONE = "runs/toy_pretrain_hard/backbone"


def get_config(arg: str = "") -> TrainConfig:
    """The variant that ``arg`` names, ``capo_released`` if none."""
    known, arg = variants(), arg or "capo_released"
    if arg not in known:
        raise ValueError(f"configs/toy_ablation.py knows no {arg!r}, but {', '.join(known)}")
    return replace(known[arg], output_dir=f"runs/toy_ablation/{arg}")


def variants() -> dict[str, TrainConfig]:
    """All variants by name."""
    toy = load_config(Path(__file__).with_name("toy.py"))
    plain = replace(
        toy,
        loss=replace(toy.loss, similarity_weight=0.0),
        rollouts=replace(toy.rollouts, allocations_per_pass=4, capacity_shares=CAPACITY_SHARES),
    )
    methods = {name: replace(plain, advantage=method) for name, method in METHODS.items()}
    capo = methods["capo_released"]
    found = dict(methods)
    for name, config in methods.items():
        for form, similarity in SIMILARITIES.items():
            loss = replace(config.loss, similarity=similarity, similarity_weight=SIMILARITY_WEIGHT)
            found[f"{name}+{form}"] = replace(config, loss=loss)
    everything = toy.data.num_pairs * (toy.data.size // toy.limits.factor) ** 2
    roomy = replace(plain.rollouts, token_capacity=everything)
    for name in ("accuracy", "capo_released"):
        found[f"{name}_uncapped"] = replace(methods[name], rollouts=roomy)
    found["unit_cost"] = replace(plain, advantage=UnitCostConfig(gamma=GAMMA))
    found["logistic_normal"] = replace(
        capo, allocator=replace(capo.allocator, bounds=LogisticNormalBounds())
    )
    found["per_frame"] = replace(capo, allocator=replace(capo.allocator, unit="frame"))
    # In one pass: where the backbone learns, every pass encodes all sizes anew.
    sampled = DecodingConfig(temperature=1.0)
    found["joint"] = replace(
        capo,
        rollouts=replace(capo.rollouts, decoding=sampled, allocations_per_pass=0),
        backbone_training=BackboneTrainingConfig(
            optimizer=OptimizerConfig(learning_rate=1e-4), remat=Remat.NONE
        ),
    )
    return found | {f"hard_{name}": _hard(config) for name, config in methods.items()}


def _hard(config: TrainConfig) -> TrainConfig:
    return replace(
        config,
        data=HARD_WORLD,
        backbone=HARD_BACKBONE,
        rollouts=replace(config.rollouts, token_capacity=160),
    )
