"""What the jobs of `evidence_jobs` do: train a variant, evaluate an allocator, time it.

Every function takes the folder of all runs last and returns figures for a JSON file.
"""

import os
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from break_even import measure

from resadapt_jax.config import load_config
from resadapt_jax.data.toy_source import SampledClips
from resadapt_jax.evaluation.evaluator import Evaluation, Tally
from resadapt_jax.evaluation.frontier import point_of
from resadapt_jax.evaluation.methods import MethodSetting, fixed_scale, resadapt_within
from resadapt_jax.evaluation.run import Opened, evaluate_opened, held_out_clips, open_evaluation
from resadapt_jax.evaluation.selectivity import changes, hit_rate
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.loop.metric_log import read_metrics
from resadapt_jax.training.measures import gini, scale_std
from resadapt_jax.training.pretrain import PretrainConfig, pretrain
from resadapt_jax.training.recipe import train

ROOT = Path(__file__).resolve().parents[1]
TRAINING_SEED, HELD_OUT_SEED = 100, 1000
"""Of the clips of seed 0. Those held out are seen by no training and by no choice of a coefficient;
another seed has other clips, so that errors are of clips too."""
STRIDES = (8, 4, 2, 1)
"""Of the clip's pairs every so many are sampled; the fewest at full size set the budget."""
CURVES = ("reward", "retention")
_EVALUATED: dict[tuple[Any, ...], Tally] = {}
"""What `evaluate_once` has found in this process."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run.

    Attributes:
        seeds: of every variant.
        num_steps, hard_steps: of training an allocator, on the default and on the harder world.
        num_clips: held out, of a seed.
        pretrain_steps: of each phase of a backbone's training; None for the config's own.
        timed: clip lengths, scales, repeats and frames of the released encoder (`break_even`).
        pace: how long a job takes, as a share of all of it.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    num_steps: int = 144
    hard_steps: int = 144
    num_clips: int = 512
    pretrain_steps: int | None = None
    timed: tuple[Sequence[int], Sequence[float], int, int] = ((8, 16, 32), (0.5, 0.35, 0.25), 5, 4)
    pace: float = 1.0


@cache
def _variants() -> dict[str, TrainConfig]:
    return runpy.run_path(str(ROOT / "configs/toy_ablation.py"))["variants"]()


def variant_names() -> list[str]:
    """What `configs/toy_ablation.py` knows."""
    return list(_variants())


def variant_config(name: str, seed: int, size: Size, folder: Path) -> TrainConfig:
    """A variant as it is run: its seed is that of parameters, draws and clips."""
    config, is_hard = _variants()[name], name.startswith("hard_")
    return replace(
        config,
        backbone=str(folder / "backbones/hard/backbone") if is_hard else config.backbone,
        seed=seed,
        output_dir=str(folder / "runs" / name / str(seed)),
        num_steps=size.hard_steps if is_hard else size.num_steps,
        data=replace(config.data, seed=TRAINING_SEED + seed),
        evaluation=replace(config.evaluation, seed=HELD_OUT_SEED + seed, num_clips=size.num_clips),
    )


def backbone_config(name: str, size: Size, folder: Path) -> PretrainConfig:
    """A tiny backbone's pre-training."""
    config = load_config(ROOT / "configs/toy_pretrain.py", name)
    config = replace(config, output_dir=str(folder / "backbones" / name))
    if size.pretrain_steps is None:
        return config
    phases = (replace(phase, num_steps=size.pretrain_steps) for phase in config.phases)
    return replace(config, phases=tuple(phases))


def make_backbone(name: str, size: Size, folder: Path) -> dict[str, Any]:
    """Pre-trains a tiny backbone; figures are means of each phase's last ten steps."""
    config = backbone_config(name, size, folder)
    pretrain(config)
    logs = [Path(config.output_dir) / f"phase_{i}/metrics.jsonl" for i in range(len(config.phases))]
    last = [read_metrics(log)[-10:] for log in logs]
    kept = ("label_accuracy", "answer_accuracy")
    return {
        "phases": [
            {key: mean_of(records, key) for key in kept if key in records[0]} for records in last
        ]
    }


def train_variant(name: str, seed: int, size: Size, folder: Path) -> dict[str, Any]:
    """Trains an allocator and evaluates its mean policy beside full resolution."""
    config = variant_config(name, seed, size, folder)
    train(config)
    opened = open_evaluation(config, "train.py")
    full, free = chosen(opened.frontier(), ("vanilla", "scale 1"), ("resadapt", "free"))
    evaluation = evaluate_opened(opened, [free])
    vanilla, (allocated,) = evaluate_once(opened, full), evaluation.tallies
    return {
        "points": [point_of(full, vanilla), point_of(free, allocated)],
        "selectivity": selectivity_of(evaluation, vanilla, allocated),
        "training": curves_of(Path(config.output_dir) / "metrics.jsonl"),
    }


def evaluate_once(opened: Opened, setting: MethodSetting) -> Tally:
    """A setting without an allocator, the same for all variants of a backbone and its clips."""
    c = opened.config
    asked = c.data, c.evaluation, c.limits, c.convention, c.rewards, c.rollouts.decoding
    key = setting.method, setting.name, c.trained_backbone, asked
    if key not in _EVALUATED:
        (_EVALUATED[key],) = evaluate_opened(opened, [setting]).tallies
    return _EVALUATED[key]


def measure_frontier(
    name: str, seed: int, size: Size, backbone: str | None, folder: Path
) -> dict[str, Any]:
    """Every method of the library at every setting, with a variant's allocator.

    Args:
        backbone: that answers instead of the one beside which the allocator was trained.
    """
    config = variant_config(name, seed, size, folder)
    if backbone is not None:
        config = replace(config, backbone=str(folder / "backbones" / backbone / "backbone"))
    opened = open_evaluation(config, "train.py")
    settings = opened.frontier() + opened.controls()
    return {"points": points_of(settings, evaluate_opened(opened, settings))}


def sample_more(name: str, seed: int, size: Size, folder: Path) -> dict[str, Any]:
    """The same visual tokens spent on more and more pairs of a world's clips."""
    config = variant_config(name, seed, size, folder)
    opened = open_evaluation(config, "train.py")
    limits, world = opened.config.limits, opened.config.data
    fewest = world.num_pictures + len(range(world.video_pairs)[:: STRIDES[0]])
    rows = []
    for stride in STRIDES:
        pairs = world.num_pictures + len(range(world.video_pairs)[::stride])
        share = fewest / pairs
        builders = {
            "fixed_scale": partial(fixed_scale, share, limits=limits),
            "resadapt": partial(resadapt_within, share, limits=limits),
        }
        settings = [
            MethodSetting(method=method, name=f"every {stride}", build=build)
            for method, build in builders.items()
        ]
        source = SampledClips(held_out_clips(opened.config, size.num_clips), stride)
        evaluation = evaluate_opened(opened, settings, source)
        answerable = np.mean([source.shows_all_evidence(i) for i in range(len(source))])
        for point, tally in zip(points_of(settings, evaluation), evaluation.tallies, strict=True):
            tokens = sum(tally.tokens) / len(tally.tokens)
            extra = {"pairs": pairs, "tokens": tokens, "evidence_shown": float(answerable)}
            rows.append(point | extra)
    return {"budget_pairs": fewest, "points": rows}


def break_even(size: Size, folder: Path) -> dict[str, Any]:
    """End-to-end time with an allocator against all at full size."""
    del folder  # random parameters take as long as trained ones
    return {"cores": len(os.sched_getaffinity(0))} | measure(*size.timed)


def chosen(settings: Sequence[MethodSetting], *names: tuple[str, str]) -> list[MethodSetting]:
    """The settings of these methods and names, in this order."""
    by_name = {(setting.method, setting.name): setting for setting in settings}
    return [by_name[name] for name in names]


def points_of(settings: Sequence[MethodSetting], evaluation: Evaluation) -> list[dict[str, Any]]:
    return [point_of(*pair) for pair in zip(settings, evaluation.tallies, strict=True)]


def selectivity_of(evaluation: Evaluation, vanilla: Tally, allocated: Tally) -> dict[str, Any]:
    """Where the pixels went, over all clips, and what became of the answers."""
    scales, every = evaluation.scales, np.ones(evaluation.scales.shape, bool)
    answers = changes(np.array(vanilla.scores), np.array(allocated.scores))
    return {
        "gini": float(np.mean(gini(scales, every))),
        "spread": float(np.mean(scale_std(scales, every))),
        "hit_rate": float(np.mean(hit_rate(scales, evaluation.evidence))),
        "hit_rate_by_chance": float(evaluation.evidence.mean()),
        "scale_of_evidence": float(scales[evaluation.evidence].mean()),
        "scale_of_others": float(scales[~evaluation.evidence].mean()),
        "answers": answers._asdict(),
    }


def curves_of(path: Path, steps: int = 10) -> dict[str, list[float]]:
    """Means of so many steps; ``step`` is the last of each."""
    records = read_metrics(path)
    groups = [records[i : i + steps] for i in range(0, len(records), steps)]
    curves = {name: [mean_of(group, name) for group in groups] for name in CURVES}
    return {"step": [group[-1]["step"] for group in groups]} | curves


def mean_of(records: Sequence[Mapping[str, float]], name: str) -> float:
    return float(np.mean([record[name] for record in records]))
