"""What both networks learn when they are trained together: `configs/toy_joint.py`, ResAdapt-RL.

    python benchmarks/joint_training.py

Trains the config, unless ``--run`` names the folder of a finished run, and evaluates its allocator
on held-out clips twice: with the backbone trained beside it, and with the one that it started from.
What differs between the two is what the backbone learnt; how either keeps its accuracy at a lower
retention is what the allocator did. Writes ``results/joint_training.json`` and draws
``docs/joint_training.png``.
"""

import argparse
import io
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from timing import save

from resadapt_jax.config import load_config
from resadapt_jax.evaluation.run import evaluate_run
from resadapt_jax.files import atomic_write
from resadapt_jax.training.config import TrainConfig
from resadapt_jax.training.loop.metric_log import read_metrics
from resadapt_jax.training.recipe import train

ROOT = Path(__file__).resolve().parents[1]
CURVES = ("reward", "retention", "retention_of_mean_policy", "backbone_grad_norm")
SHOWN = (("vanilla", "scale 1"), ("resadapt", "free"), ("resadapt", "budget 0.25"))
INK, BEFORE, AFTER = "#20242b", "#8c98aa", "#d1372f"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a finished run of the config")
    parser.add_argument("--clips", type=int, default=512, help="held-out clips")
    args = parser.parse_args()
    config = load_config(ROOT / "configs/toy_joint.py")
    if args.run is None:
        train(config)
    else:
        config = replace(config, output_dir=str(args.run))
    config = replace(config, evaluation=replace(config.evaluation, num_clips=args.clips))
    curves = smoothed(read_metrics(Path(config.output_dir) / "metrics.jsonl"))
    evaluations = {"start": of_start(config), "trained": evaluate_run(config, "train.py")}
    points = {name: shown_points(record) for name, record in evaluations.items()}
    for name, rows in points.items():
        for setting, row in rows.items():
            print(f"{name:8s} {setting:22s} {row['retention']:6.1%} {row['accuracy']:6.1%}")
    atomic_write(ROOT / "docs/joint_training.png", draw(curves, points))
    result = {"num_clips": args.clips, "training": curves, "evaluation": points}
    print("wrote", save("joint_training", result))


def of_start(config: TrainConfig) -> dict[str, Any]:
    """The trained allocator with the backbone that the run started from."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(Path(config.output_dir) / "allocator", Path(folder) / "allocator")
        alone = replace(config, output_dir=folder, backbone_training=None)
        return evaluate_run(alone, "train.py")


def smoothed(records: Sequence[dict[str, Any]], steps: int = 10) -> dict[str, list[float]]:
    """Means over so many steps; ``step`` is the last of each."""
    groups = [records[i : i + steps] for i in range(0, len(records), steps)]
    curves = {name: [float(np.mean([r[name] for r in g])) for g in groups] for name in CURVES}
    return {"step": [group[-1]["step"] for group in groups]} | curves


def shown_points(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    points = {(point["method"], point["setting"]): point for point in record["points"]}
    kept = ("retention", "accuracy", "stderr")
    return {" ".join(name): {key: points[name][key] for key in kept} for name in SHOWN}


def draw(curves: dict[str, list[float]], points: dict[str, dict[str, dict[str, float]]]) -> bytes:
    """Reward and retention as they were trained; accuracy with either backbone."""
    figure = Figure(figsize=(9.6, 3.6), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot(curves["step"], curves["reward"], color=AFTER, label="reward of sampled answers")
    left.plot(curves["step"], curves["retention"], color=BEFORE, label="retention as drawn")
    left.set(xlabel="step", ylim=(0, 1), title="training")
    left.legend(frameon=False, loc="center right")
    _bars(right, points)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _bars(axes: Axes, points: dict[str, dict[str, dict[str, float]]]) -> None:
    places = np.arange(len(SHOWN))
    for i, (name, colour) in enumerate((("start", BEFORE), ("trained", AFTER))):
        rows = list(points[name].values())
        bars = axes.bar(
            places + 0.4 * i - 0.2,
            [row["accuracy"] for row in rows],
            width=0.36,
            color=colour,
            yerr=[row["stderr"] for row in rows],
            label=f"{name} backbone",
        )
        axes.bar_label(bars, [f"{row['accuracy']:.1%}" for row in rows], padding=2, fontsize=8)
    retentions = [row["retention"] for row in points["trained"].values()]
    pairs = zip(SHOWN, retentions, strict=True)
    names = [f"{' '.join(name)}\n{kept:.0%} of tokens" for name, kept in pairs]
    axes.set_xticks(places, names, fontsize=8)
    axes.set(ylim=(0, 1.25), title="accuracy on held-out clips, trained allocator")
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.legend(frameon=False, loc="upper center", ncols=2)


if __name__ == "__main__":
    main()
