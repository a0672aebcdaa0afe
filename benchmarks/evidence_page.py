"""Builds docs/evidence.md and its pictures from the figures of `evidence_jobs`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from evidence_claims import claims
from evidence_jobs import HARD_METHODS, HELD_OUT_SEED, MAIN, STRIDES, Size
from evidence_pictures import draw_frontier, draw_longer, draw_methods, draw_training
from evidence_results import (
    Estimate,
    Record,
    Results,
    allocated,
    over_fixed_scale,
    point,
)

from resadapt_jax.files import atomic_write

METHODS = {
    "accuracy": "accuracy only",
    "direct_cost": "direct cost",
    "gdpo": "GDPO",
    "cost_outside": "cost outside, no shaping",
    "capo_paper": "CAPO, paper's sign",
    "capo_released": "CAPO, released sign",
    "unit_cost": "cost per unit, where answered (ours)",
}
SIMILARITIES = {"similarity_paper": "paper's form", "similarity_released": "released form"}
OTHERS = {
    MAIN: "Beta, per pair (the CAPO run above)",
    "logistic_normal": "logistic-normal",
    "per_frame": "per frame",
    "joint": "backbone trained too",
}
VARIANT_HEADER = (
    "",
    "seeds",
    "accuracy",
    "tokens kept",
    "over FixedScale",
    "spread",
    "Gini",
    "hits",
    "kept / lost / gained",
)


def write_page(folder: Path, page: Path, size: Size) -> Path:
    """Writes ``evidence.md`` and its pictures from what there is."""
    results = Results(folder, size)
    hard = {name: METHODS[name] for name in HARD_METHODS}
    pictures = {
        "evidence_methods.png": draw_methods(results, METHODS),
        "evidence_training.png": draw_training(results, METHODS),
        "evidence_frontier.png": draw_frontier(results, "frontier"),
        "evidence_hard.png": draw_methods(results, hard, hard=True),
        "evidence_longer.png": draw_longer(results),
    }
    for name, picture in pictures.items():
        atomic_write(page / name, picture)
    parts = (
        opening(size),
        claims_section(results),
        methods_section(results),
        others_section(results),
        frontier_section(results),
        hard_section(results),
        longer_section(results),
        transfer_section(results),
        time_section(results),
    )
    path = page / "evidence.md"
    atomic_write(path, "\n\n".join(parts) + "\n")
    return path


def opening(size: Size) -> str:
    return f"""# Evidence

Does CAPO do what the paper says? Every experiment here was run by

    python benchmarks/evidence.py

on the embedded world (`resadapt_jax/data/toy_world.py`): synthetic clips, a backbone of a million
parameters. What holds here need not hold on real video, and what fails here may hold there. Each
variant is another in one thing (`configs/toy_ablation.py`), trained for {size.num_steps} steps
({size.hard_steps} on the harder world) from each of {len(size.seeds)} seeds. Its mean policy is
evaluated on {size.num_clips} clips of seed {HELD_OUT_SEED}, which neither a training nor a choice
of a coefficient has seen; frontiers and transfer on {size.frontier_clips}. Coefficients were chosen
on other seeds (10, 11) and other clips. A figure is the mean over seeds ± its standard error;
figures of each run are in `benchmarks/results/evidence/`, and the job that made one runs alone by
`python benchmarks/evidence_jobs.py JOB/SEED --folder runs/evidence --results DIRECTORY`."""


def claims_section(results: Results) -> str:
    rows = [
        (one.said, one.found, f"**{one.verdict}**", str(one.seeds), f"`{one.jobs}`")
        for one in claims(results)
    ]
    header = ("the paper, or the question", "here", "holds?", "seeds", "jobs")
    text = (
        "A difference counts where the 95 % interval of Student's t over the seeds leaves out 0; "
        "three seeds show large differences only."
    )
    return "\n\n".join(["## Claims", text, table(header, rows)])


def methods_section(results: Results) -> str:
    fixed = results.fixed_scale()
    rows = [variant_row(label, results.variant(name), fixed) for name, label in METHODS.items()]
    parts = [
        "## Methods",
        "![accuracy over retention by method](evidence_methods.png)",
        table(VARIANT_HEADER, rows),
        "Over FixedScale: accuracy above that of one scale for all at the same tokens, between its "
        "two nearest settings. Spread: standard deviation of the scales within a clip. Hits: share "
        "of the pairs with evidence among as many largest scales. Kept, lost and gained: answers "
        "right at full size and allocated, at full size alone, allocated alone.",
        "![accuracy and retention in training](evidence_training.png)",
    ]
    for suffix, label in SIMILARITIES.items():
        rows = [
            variant_row(name, results.variant(f"{method}+{suffix}"), fixed)
            for method, name in METHODS.items()
            if method != "unit_cost"
        ]
        parts += [f"With the temporal similarity term, {label}:", table(VARIANT_HEADER, rows)]
    return "\n\n".join(parts)


def others_section(results: Results) -> str:
    fixed = results.fixed_scale()
    rows = [variant_row(label, results.variant(name), fixed) for name, label in OTHERS.items()]
    return "\n\n".join(["## Policies, units, joint training", table(VARIANT_HEADER, rows)])


def hard_section(results: Results) -> str:
    fixed = results.fixed_scale("hard_")
    rows = [
        variant_row(METHODS[name], results.variant(f"hard_{name}"), fixed) for name in HARD_METHODS
    ]
    text = (
        "32 pairs of video and a still picture, five signs that are up for one pair each, and "
        "questions that need two of them (`HARD_WORLD`); a backbone of its own."
    )
    picture = "![accuracy over retention on the harder world](evidence_hard.png)"
    return "\n\n".join(["## A harder world", text, picture, table(VARIANT_HEADER, rows)])


def frontier_section(results: Results) -> str:
    parts = ["## Frontier", "![accuracy over retention of every method](evidence_frontier.png)"]
    for group, label in (("frontier", "Default world"), ("hard_frontier", "Harder world")):
        parts += [f"{label}:", table(("", "accuracy", "tokens kept"), point_rows(results, group))]
    return "\n\n".join(parts)


def point_rows(results: Results, group: str) -> list[list[str]]:
    records = list(results.seeds(group).values())
    if not records:
        return [["not run", "", ""]]
    rows = []
    for one in records[0]["points"]:
        some = [point(record, one["method"], one["setting"]) for record in records]
        estimates = (Estimate.of([p[key] for p in some]) for key in ("accuracy", "retention"))
        rows.append([f"{one['method']}, {one['setting']}", *(e.percent() for e in estimates)])
    return rows


def longer_section(results: Results) -> str:
    records = list(results.seeds("longer").values())
    rows = []
    for stride in STRIDES if records else ():
        found = [[p for p in r["points"] if p["setting"] == f"every {stride}"] for r in records]
        cells = [f"{found[0][0]['pairs']}", f"{100 * found[0][0]['evidence_shown']:.0f} %"]
        for method in ("fixed_scale", "resadapt"):
            mine = [next(p for p in points if p["method"] == method) for points in found]
            cells.append(Estimate.of([p["accuracy"] for p in mine]).percent())
            cells.append(f"{np.mean([p['tokens'] for p in mine]):.0f}")
        rows.append(cells)
    header = ("pairs", "evidence sampled", "FixedScale", "tokens", "ResAdapt", "tokens")
    text = (
        "Every eighth, fourth, second and every pair of the harder world's clips, always within "
        "the tokens that the fewest take at full size: the first row is uniform sampling."
    )
    picture = "![accuracy over frames](evidence_longer.png)"
    return "\n\n".join(["## More frames for the same tokens", text, picture, table(header, rows)])


def transfer_section(results: Results) -> str:
    records = list(results.seeds("transfer").values())
    rows = []
    for method, setting, label in (
        ("vanilla", "scale 1", "full resolution"),
        ("resadapt", "free", "ResAdapt"),
        ("control", "other_query", "allocated for another question"),
    ):
        mine = [point(record, method, setting) for record in records]
        if mine:
            columns = ([p["accuracy"] for p in mine], [p["retention"] for p in mine])
            rows.append([label, *(Estimate.of(column).percent() for column in columns)])
    text = "The allocator trained beside the Qwen2.5-VL, unchanged in front of a tiny Qwen3-VL:"
    return "\n\n".join(["## Another backbone", text, table(("", "accuracy", "tokens kept"), rows)])


def time_section(results: Results) -> str:
    record = results.job("break_even")
    header = ("frames", "tokens kept", "allocator", "backbone", "in all", "of full size")
    rows, text = [["not run", *[""] * 5]], ""
    if record is not None:
        rows = [
            [
                str(row["frames"]),
                f"{100 * row['retention']:.1f} %",
                *(f"{row[f'{part}_s']:.2f} s" for part in ("allocator", "backbone", "total")),
                f"{100 * row['of_vanilla']:.0f} %",
            ]
            for row in record["rows"]
        ]
        released = record["released_allocator"]
        text = (
            f"The released allocator is larger than this backbone: SmolVLM2-256M takes "
            f"{released['encode_s'] / released['frames']:.2f} s a frame of 512 x 512 here, its "
            f"network {released['predict_s'] / released['frames']:.2f} s."
        )
    opening = (
        "From frames to the last of 8 tokens, a Qwen2.5-VL of 0.1 B parameters on 336 x 448 pixels "
        "a frame, two cores, medians (`python benchmarks/break_even.py`); random parameters, one "
        "scale for all frames. Clips at full size have no allocator."
    )
    return "\n\n".join(["## Break-even", opening, table(header, rows), text]).rstrip()


def variant_row(label: str, records: Mapping[int, Record], fixed: Sequence[Record]) -> list[str]:
    """Accuracy, retention, gain over FixedScale there, and where the pixels went."""
    if not records:
        return [label, "0", *["not run"] * (len(VARIANT_HEADER) - 2)]
    free = [allocated(record) for record in records.values()]
    gains = [over_fixed_scale(one, fixed) for one in free]
    where = [record["selectivity"] for record in records.values()]

    def estimate(get: Callable[[Record], float], rows: Sequence[Record]) -> Estimate:
        return Estimate.of([get(row) for row in rows])

    answers = [one["answers"] for one in where]
    changed = (f"{np.mean([a[name] for a in answers]):.0f}" for name in ("kept", "lost", "gained"))
    return [
        label,
        str(len(records)),
        estimate(lambda p: p["accuracy"], free).percent(),
        estimate(lambda p: p["retention"], free).percent(),
        Estimate.of(gains).points() if None not in gains else "not bracketed",
        estimate(lambda w: w["spread"], where).plain(),
        estimate(lambda w: w["gini"], where).plain(),
        estimate(lambda w: w["hit_rate"], where).percent(),
        " / ".join(changed),
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
