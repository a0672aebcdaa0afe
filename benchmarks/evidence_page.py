"""Fills evidence_page.md from the figures of `evidence_jobs`: docs/evidence.md and its pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from evidence_claims import claims, spread
from evidence_jobs import HARD_METHODS, MAIN, QUICK
from evidence_pictures import draw_frontier, draw_longer, draw_methods, draw_training
from evidence_results import Estimate, Results, accuracy, over_seeds, point, retention
from evidence_runs import (
    HELD_OUT_SEED,
    STRIDES,
    TRAINING_SEED,
    Size,
    variant_config,
    variant_names,
)

from resadapt_jax.data.toy_world import HARD_WORLD
from resadapt_jax.files import atomic_write

TEMPLATE = Path(__file__).with_suffix(".md")
METHODS = {
    "accuracy": "accuracy only",
    "direct_cost": "direct cost",
    "direct_cost_light": "direct cost, a fifth of λ",
    "gdpo": "GDPO",
    "cost_outside": "cost outside, no shaping",
    "capo_paper": "CAPO, paper's sign",
    "capo_released": "CAPO, released sign",
    "unit_credit": "cost outside, per unit (ours)",
    "unit_cost": "cost per unit where right (ours)",
}
OTHERS = {
    MAIN: "Beta, per pair (the CAPO run above)",
    "logistic_normal": "logistic-normal",
    "per_frame": "per frame",
    "joint": "backbone trained too",
}
QUICK_NOTE = (
    "\n\n**A quick run of one seed and a few steps: it shows that all of it runs, no more.**"
)


def write_page(folder: Path, page: Path, size: Size) -> Path:
    """Writes ``evidence.md`` and its pictures from what there is."""
    results = Results(folder, size)
    hard = {name: METHODS[name] for name in HARD_METHODS}
    pictures = {
        "evidence_methods.png": draw_methods(results, METHODS),
        "evidence_training.png": draw_training(results, METHODS),
        "evidence_frontier.png": draw_frontier(results, "frontier"),
        "evidence_hard.png": draw_methods(results, hard, world="hard_"),
        "evidence_longer.png": draw_longer(results),
    }
    for name, picture in pictures.items():
        atomic_write(page / name, picture)
    known = variant_names()
    similar = {
        form: {f"{n}+{form}": label for n, label in METHODS.items() if f"{n}+{form}" in known}
        for form in ("similarity_paper", "similarity_released")
    }
    tables = {
        "claims": claims_table(results),
        "methods": variant_table(results, METHODS),
        "others": variant_table(results, OTHERS),
        "hard": variant_table(results, {f"hard_{name}": label for name, label in hard.items()}),
        **{form: variant_table(results, names) for form, names in similar.items()},
        **{name: point_table(results, name) for name in ("frontier", "hard_frontier", "transfer")},
        "longer": longer_table(results),
        "break_even": time_table(results),
    }
    text = TEMPLATE.read_text().format(
        note=QUICK_NOTE if size == QUICK else "",
        main=MAIN,
        seeds=", ".join(map(str, size.seeds)),
        training_seed=TRAINING_SEED,
        held_out_seed=HELD_OUT_SEED,
        steps=steps(size),
        num_clips=size.num_clips,
        hard_pairs=HARD_WORLD.video_pairs,
        **room(f"hard_{MAIN}", "hard_", size),
        **room(MAIN, "", size),
        **tables,
    )
    path = page / "evidence.md"
    atomic_write(path, text)
    return path


def steps(size: Size) -> str:
    if size.num_steps == size.hard_steps:
        return f"{size.num_steps} steps"
    return f"{size.num_steps} steps ({size.hard_steps} on the harder world)"


def room(name: str, prefix: str, size: Size) -> dict[str, int]:
    """Visual tokens that a variant's rollouts hold, and those of a clip at full size."""
    config = variant_config(name, 0, size, Path())
    pairs, side = config.data.num_pairs, config.data.size // config.limits.factor
    return {
        f"{prefix}capacity": config.rollouts.token_capacity,
        f"{prefix}full_tokens": pairs * side**2,
    }


def claims_table(results: Results) -> str:
    rows = [
        (
            one.source,
            one.said,
            one.found,
            f"**{one.verdict}**",
            str(one.seeds or "–"),
            ", ".join(f"`{job}`" for job in one.jobs),
        )
        for one in claims(results)
    ]
    return table(("who", "claim", "here", "holds?", "seeds", "jobs, less the seed"), rows)


def variant_table(results: Results, names: Mapping[str, str]) -> str:
    header = ("", "seeds", "accuracy", "tokens kept", "over FixedScale", "spread", "Gini", "hits")
    header += ("kept / lost / gained", "job, less the seed")
    return table(header, [variant_row(results, name, label) for name, label in names.items()])


def variant_row(results: Results, name: str, label: str) -> list[str]:
    """Accuracy, retention, gain over FixedScale there, and where the pixels went."""
    records = results.variant(name)
    if not records:
        return [label, "0", *["not run"] * 7, f"`variant/{name}`"]
    gain = None if name == "joint" else results.over_fixed_scale(name)
    where = {seed: record["selectivity"] for seed, record in records.items()}
    answers = [one["answers"] for one in where.values()]
    changed = (f"{np.mean([a[key] for a in answers]):.0f}" for key in ("kept", "lost", "gained"))
    return [
        label,
        str(len(records)),
        over_seeds(records, accuracy).percent(),
        over_seeds(records, retention).percent(),
        "–" if gain is None else gain.points(),
        over_seeds(records, spread).plain(),
        over_seeds(where, lambda one: one["gini"]).plain(),
        over_seeds(where, lambda one: one["hit_rate"]).percent(),
        " / ".join(changed),
        f"`variant/{name}`",
    ]


def point_table(results: Results, group: str) -> str:
    """Every point of a frontier."""
    records = results.seeds(group)
    rows = []
    for one in next(iter(records.values()))["points"] if records else ():
        some = [point(record, one["method"], one["setting"]) for record in records.values()]
        estimates = (
            Estimate.of([p[key] for p in some]) for key in ("accuracy", "retention", "encoded")
        )
        rows.append([f"{one['method']}, {one['setting']}", *(e.percent() for e in estimates)])
    header = ("", "accuracy", "tokens kept", "tokens encoded")
    return table(header, rows, source=group, seeds=len(records))


def longer_table(results: Results) -> str:
    """A row for each number of pairs."""
    records = results.seeds("longer")
    rows = []
    for stride in STRIDES if records else ():
        cells = []
        for method in ("fixed_scale", "resadapt"):
            mine = {s: point(record, method, f"every {stride}") for s, record in records.items()}
            cells.append(over_seeds(mine, lambda p: p["accuracy"]).percent())
            cells.append(f"{np.mean([p['tokens'] for p in mine.values()]):.0f}")
        one = next(iter(mine.values()))
        shown = over_seeds(mine, lambda p: p["evidence_shown"])
        rows.append([str(one["pairs"]), shown.percent(), *cells])
    header = ("pairs", "all evidence sampled", "FixedScale", "tokens", "ResAdapt", "tokens")
    return table(header, rows, source="longer", seeds=len(records))


def time_table(results: Results) -> str:
    """Seconds with an allocator and without."""
    record = results.job("break_even")
    if record is None:
        return table((), [])
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
    encode, predict = (released[f"{part}_s"] / released["frames"] for part in ("encode", "predict"))
    header = ("frames", "tokens kept", "allocator", "backbone", "in all", "of full size")
    closing = (
        f"`break_even`, {record['cores']} cores. The released allocator is larger than this "
        f"backbone and in none of these sums: SmolVLM2-256M takes {encode:.2f} s for each frame of "
        f"512 x 512, its network {predict:.2f} s."
    )
    return f"{table(header, rows)}\n\n{closing}"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, source: str = "", seeds: int = 0
) -> str:
    """A table in Markdown, and the jobs that it is from; without rows it says so."""
    if not rows:
        return "Not run."
    lines = [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]
    if source:
        lines.append(f"\n`{source}/SEED`, {seeds} seed{'' if seeds == 1 else 's'}.")
    return "\n".join(lines)
