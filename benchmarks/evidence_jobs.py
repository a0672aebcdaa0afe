"""The experiments behind docs/evidence.md, one job at a time; `evidence.py` runs them all.

    python benchmarks/evidence_jobs.py variant/capo_paper/0 --folder runs/evidence --results ...

A job trains or evaluates, goes on where it was interrupted, and writes its figures as one file,
``<results>/<job>.json``. Jobs are functions of their name and of a `Size`.
"""

import argparse
import fcntl
import json
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from break_even import measure

from resadapt_jax.config import load_config
from resadapt_jax.data.toy_source import SampledClips
from resadapt_jax.evaluation.evaluator import Evaluation, Tally
from resadapt_jax.evaluation.frontier import point_of
from resadapt_jax.evaluation.methods import Setting, fixed_scale, resadapt_within
from resadapt_jax.evaluation.run import evaluate_opened, held_out_clips, open_evaluation
from resadapt_jax.evaluation.selectivity import changes, hit_rate
from resadapt_jax.files import atomic_write
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.loop.metrics import read_metrics
from resadapt_jax.training.measures import gini, scale_std
from resadapt_jax.training.pretrain import pretrain
from resadapt_jax.training.recipe import train
from resadapt_jax.versions import versions

ROOT = Path(__file__).resolve().parents[1]
ABLATION = ROOT / "configs/toy_ablation.py"
HARD_METHODS = ("cost_outside", "capo_paper", "capo_released", "unit_cost")
MAIN = "capo_released"
"""Whose allocator the frontier, the transfer and the longer clips are about."""
HELD_OUT_SEED = 1000
"""Of clips that neither a training nor any choice of a coefficient has seen."""
STRIDES = (8, 4, 2, 1)
"""Of the clip's pairs every so many are sampled; the fewest at full size set the budget."""
CURVES = ("reward", "retention", "retention_of_mean_policy")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run.

    Attributes:
        seeds: of every variant.
        num_steps, hard_steps: of training an allocator, on the default and on the harder world.
        num_clips: held out, of a variant; ``frontier_clips`` of what the frontier is drawn from.
        pretrain_steps: of each phase of a backbone's training; None for the config's own.
        timed: clip lengths, scales, repeats and frames of the released encoder (`break_even`).
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    num_steps: int = 144
    hard_steps: int = 144
    num_clips: int = 512
    frontier_clips: int = 1024
    pretrain_steps: int | None = None
    timed: tuple[Sequence[int], Sequence[float], int, int] = ((8, 16, 32), (0.5, 0.35, 0.25), 5, 4)


FULL = Size()
QUICK = Size(
    seeds=(0,),
    num_steps=3,
    hard_steps=2,
    num_clips=16,
    frontier_clips=16,
    pretrain_steps=2,
    timed=((8,), (0.5,), 1, 1),
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One experiment.

    Attributes:
        run: from the folder of all runs to the job's figures.
        minutes: that it is expected to take on one core.
        needs: jobs whose output it reads.
        output: what it leaves for them in the folder of all runs; empty if nothing.
        alone: it measures time, so nothing else may run.
        depends: fields of the size that its figures depend on.
    """

    run: Callable[[Path], dict[str, Any]]
    minutes: float
    needs: tuple[str, ...] = ()
    output: str = ""
    alone: bool = False
    depends: tuple[str, ...] = ("frontier_clips", "num_steps")


def jobs(size: Size) -> dict[str, Job]:
    """All of them by name, what matters most first, and none before what it needs."""
    names = list(runpy.run_path(str(ABLATION))["variants"]())
    plain = [name for name in names if not name.startswith("hard_")]
    hard = [f"hard_{name}" for name in HARD_METHODS]
    last = [name for name in plain if "+" in name or name == "joint"]
    first = [name for name in plain if name not in (MAIN, *last)]
    first.sort(key=lambda name: name not in HARD_METHODS)
    found = {
        f"backbone/{name}": Job(
            run=partial(make_backbone, name, size),
            minutes=minutes,
            output=f"backbones/{name}/backbone",
            depends=("pretrain_steps",),
        )
        for name, minutes in (("qwen3_vl", 12), ("hard", 23))
    }
    for seed in size.seeds:
        found |= {
            f"variant/{MAIN}/{seed}": _variant_job(MAIN, seed, size),
            **_main_jobs(seed, size),
        }
    for name in (*first, *hard):
        found |= {f"variant/{name}/{seed}": _variant_job(name, seed, size) for seed in size.seeds}
    for seed in size.seeds:
        found |= _hard_jobs(seed, size)
    for name in last:
        found |= {f"variant/{name}/{seed}": _variant_job(name, seed, size) for seed in size.seeds}
    found["break_even"] = Job(
        run=partial(break_even, size), minutes=15, alone=True, depends=("timed",)
    )
    return found


def _variant_job(name: str, seed: int, size: Size) -> Job:
    is_hard = name.startswith("hard_")
    minutes = {"joint": 25, "per_frame": 7}.get(name, 12 if is_hard else 6)
    return Job(
        run=partial(train_variant, name, seed, size),
        minutes=minutes,
        needs=("backbone/hard",) if is_hard else (),
        output=f"runs/{name}/{seed}/allocator",
        depends=("num_clips", "hard_steps" if is_hard else "num_steps"),
    )


def _main_jobs(seed: int, size: Size) -> dict[str, Job]:
    """What is done with the main variant's allocator."""
    main = (f"variant/{MAIN}/{seed}",)
    frontier = partial(draw_frontier, MAIN, seed, size)
    return {
        f"frontier/{seed}": Job(run=frontier, minutes=6, needs=main),
        f"transfer/{seed}": Job(
            run=partial(transfer, seed, size), minutes=4, needs=(*main, "backbone/qwen3_vl")
        ),
    }


def _hard_jobs(seed: int, size: Size) -> dict[str, Job]:
    """What is done with the main variant's allocator of the harder world."""
    main = (f"variant/hard_{MAIN}/{seed}",)
    frontier = partial(draw_frontier, f"hard_{MAIN}", seed, size)
    return {
        f"hard_frontier/{seed}": Job(
            run=frontier, minutes=12, needs=main, depends=("frontier_clips", "hard_steps")
        ),
        f"longer/{seed}": Job(
            run=partial(sample_more, seed, size),
            minutes=8,
            needs=main,
            depends=("num_clips", "hard_steps"),
        ),
    }


def break_even(size: Size, folder: Path) -> dict[str, Any]:
    """End-to-end time with an allocator against all at full size."""
    del folder  # random parameters take as long as trained ones
    return measure(*size.timed)


def make_backbone(name: str, size: Size, folder: Path) -> dict[str, Any]:
    """Pre-trains a tiny backbone."""
    config = load_config(ROOT / "configs/toy_pretrain.py", name)
    config = replace(config, output_dir=str(folder / "backbones" / name))
    if size.pretrain_steps is not None:
        phases = (replace(phase, num_steps=size.pretrain_steps) for phase in config.phases)
        config = replace(config, phases=tuple(phases))
    start = time.monotonic()
    pretrain(config)
    logs = [Path(config.output_dir) / f"phase_{i}/metrics.jsonl" for i in range(len(config.phases))]
    last = [read_metrics(log)[-10:] for log in logs]
    kept = ("label_accuracy", "answer_accuracy")
    return {
        "seconds": time.monotonic() - start,
        "phases": [
            {key: mean_of(records, key) for key in kept if key in records[0]} for records in last
        ],
    }


def config_of(name: str, seed: int, size: Size, folder: Path) -> TrainConfig:
    """A variant as it is run: its seed is that of parameters, draws and clips."""
    config = load_config(ABLATION, name)
    is_hard = name.startswith("hard_")
    changes = {"backbone": str(folder / "backbones/hard/backbone")} if is_hard else {}
    return replace(
        config,
        **changes,
        seed=seed,
        output_dir=str(folder / "runs" / name / str(seed)),
        num_steps=size.hard_steps if is_hard else size.num_steps,
        data=replace(config.data, seed=100 + seed),
        evaluation=replace(config.evaluation, seed=HELD_OUT_SEED, num_clips=size.num_clips),
    )


def train_variant(name: str, seed: int, size: Size, folder: Path) -> dict[str, Any]:
    """Trains an allocator and evaluates its mean policy beside full resolution."""
    config = config_of(name, seed, size, folder)
    start = time.monotonic()
    train(config)
    trained = time.monotonic()
    opened = open_evaluation(config, "train.py")
    settings = chosen(opened.frontier(), ("vanilla", "scale 1"), ("resadapt", "free"))
    evaluation = evaluate_opened(opened, settings)
    return {
        "points": points_of(settings, evaluation),
        "selectivity": selectivity_of(evaluation, *evaluation.tallies),
        "training": curves_of(Path(config.output_dir) / "metrics.jsonl"),
        "seconds": {"train": trained - start, "evaluate": time.monotonic() - trained},
    }


def draw_frontier(name: str, seed: int, size: Size, folder: Path) -> dict[str, Any]:
    """Every method of the library at every setting, with a variant's allocator."""
    opened = open_evaluation(_on_more_clips(config_of(name, seed, size, folder), size), "train.py")
    settings = opened.frontier() + opened.controls()
    evaluation = evaluate_opened(opened, settings)
    return {"points": points_of(settings, evaluation)}


def transfer(seed: int, size: Size, folder: Path) -> dict[str, Any]:
    """The allocator trained beside a Qwen2.5-VL, unchanged, in front of a Qwen3-VL."""
    config = _on_more_clips(config_of(MAIN, seed, size, folder), size)
    config = replace(config, backbone=str(folder / "backbones/qwen3_vl/backbone"))
    opened = open_evaluation(config, "train.py")
    settings = [
        setting
        for setting in opened.frontier() + opened.controls()
        if setting.method != "random_drop"
    ]
    evaluation = evaluate_opened(opened, settings)
    return {"points": points_of(settings, evaluation)}


def sample_more(seed: int, size: Size, folder: Path) -> dict[str, Any]:
    """The same visual tokens spent on more and more pairs of the harder world's clips."""
    config = config_of(f"hard_{MAIN}", seed, size, folder)
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
            Setting(method=method, name=f"every {stride}", build=build)
            for method, build in builders.items()
        ]
        source = SampledClips(held_out_clips(opened.config, size.num_clips), stride)
        evaluation = evaluate_opened(opened, settings, source)
        seen = evaluation.evidence.any(axis=1).mean()
        for point, tally in zip(points_of(settings, evaluation), evaluation.tallies, strict=True):
            tokens = sum(tally.tokens) / len(tally.tokens)
            rows.append(point | {"pairs": pairs, "tokens": tokens, "evidence_shown": float(seen)})
    return {"budget_pairs": fewest, "points": rows}


def _on_more_clips(config: TrainConfig, size: Size) -> TrainConfig:
    return replace(config, evaluation=replace(config.evaluation, num_clips=size.frontier_clips))


def chosen(settings: Sequence[Setting], *names: tuple[str, str]) -> list[Setting]:
    """The settings of these methods and names, in this order."""
    by_name = {(setting.method, setting.name): setting for setting in settings}
    return [by_name[name] for name in names]


def points_of(settings: Sequence[Setting], evaluation: Evaluation) -> list[dict[str, Any]]:
    return [point_of(*pair) for pair in zip(settings, evaluation.tallies, strict=True)]


def selectivity_of(evaluation: Evaluation, vanilla: Tally, allocated: Tally) -> dict[str, Any]:
    """Where the pixels went, over all clips, and what became of the answers."""
    scales, every = evaluation.scales, np.ones(evaluation.scales.shape, bool)
    right = changes(np.array(vanilla.scores), np.array(allocated.scores))
    return {
        "gini": float(np.mean(gini(scales, every))),
        "spread": float(np.mean(scale_std(scales, every))),
        "hit_rate": float(np.mean(hit_rate(scales, evaluation.evidence))),
        "hit_rate_by_chance": float(evaluation.evidence.mean()),
        "scale_of_evidence": float(scales[evaluation.evidence].mean()),
        "scale_of_others": float(scales[~evaluation.evidence].mean()),
        "answers": right._asdict(),
    }


def curves_of(path: Path, steps: int = 10) -> dict[str, list[float]]:
    """Means of so many steps; ``step`` is the last of each."""
    records = read_metrics(path)
    groups = [records[i : i + steps] for i in range(0, len(records), steps)]
    curves = {name: [mean_of(group, name) for group in groups] for name in CURVES}
    return {"step": [group[-1]["step"] for group in groups]} | curves


def mean_of(records: Sequence[Mapping[str, float]], name: str) -> float:
    return float(np.mean([record[name] for record in records]))


def result_path(results: Path, name: str) -> Path:
    return results / f"{name.replace('/', '-')}.json"


def size_of(job: Job, size: Size) -> dict[str, Any]:
    """What of a size the job's figures depend on, as JSON has it."""
    return json.loads(json.dumps({name: getattr(size, name) for name in job.depends}))


def is_done(results: Path, name: str, job: Job, size: Size) -> bool:
    """Whether a job's figures are there, and of this size."""
    path = result_path(results, name)
    if not path.exists():
        return False
    made_with = json.loads(path.read_text())["size"]
    return all(made_with.get(key) == value for key, value in size_of(job, size).items())


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Waits until no other process holds this lock; whoever dies lets it go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job")
    parser.add_argument("--folder", type=Path, required=True, help="of all runs")
    parser.add_argument("--results", type=Path, required=True, help="of the figures")
    parser.add_argument("--quick", action="store_true", help="a few steps and clips")
    args = parser.parse_args()
    size = QUICK if args.quick else FULL
    known = jobs(size)
    if args.job not in known:
        sys.exit(f"no job {args.job!r}; there are {', '.join(known)}")
    job = known[args.job]
    with only_one(args.folder / "locks" / args.job.replace("/", "-")):
        figures = job.run(args.folder)
    record = {"job": args.job, "size": size_of(job, size), "versions": versions(), **figures}
    atomic_write(
        result_path(args.results, args.job), json.dumps(record, indent=1, allow_nan=False) + "\n"
    )


if __name__ == "__main__":
    main()
