"""Fills evidence_page.md from the figures of `evidence_jobs`: docs/evidence.md and its pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from evidence_claims import (
    AFTERWARDS,
    FAILS,
    GOAL,
    HOLDS,
    NO_DIFFERENCE,
    NOT_RUN,
    OPEN,
    OURS,
    PAPER,
    RELEASE,
    Claim,
    claims,
    spread,
)
from evidence_jobs import HARD_METHODS, MAIN, QUICK
from evidence_pictures import draw_frontier, draw_longer, draw_methods, draw_training
from evidence_results import (
    Estimate,
    Results,
    accuracy,
    difference,
    fixed_scale,
    over_seeds,
    point,
    random_pairs,
    retention,
)
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
    "accuracy_uncapped": "accuracy only, no cap",
    "direct_cost": "direct cost",
    "gdpo": "GDPO",
    "cost_outside": "cost outside, no shaping",
    "capo_paper": "CAPO, paper's form",
    "capo_released": "CAPO, released form",
    "capo_released_uncapped": "CAPO, released form, no cap",
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
    found = claims(results)
    tables = {
        "short": in_short(found, results),
        "claims": claims_table(found),
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
        num_claims=len(found),
        longer_budget=longer_budget(results),
        hard_pairs=HARD_WORLD.video_pairs,
        commits=commits(results),
        late_gains=late_gains(results, "logistic_normal"),
        repeats=size.timed[2],
        hits_by_chance=hits_by_chance(results, MAIN),
        hard_hits_by_chance=hits_by_chance(results, f"hard_{MAIN}"),
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


def in_short(found: Sequence[Claim], results: Results) -> str:
    """All claims by who makes them and by verdict, but comparisons that show no difference."""
    whose = {
        "What the paper or its release says": (PAPER, RELEASE),
        "Our goals": (GOAL,),
        "Our own questions": (OURS, AFTERWARDS),
    }
    parts = []
    for words, sources in whose.items():
        mine = [one for one in found if one.source in sources]
        lists = [nested(name, some) for name, some in by_verdict(mine).items() if some]
        parts.append("\n".join([f"{words}:", "", *lists]))
    return "\n\n".join([*parts, better_than_capo(results)])


def by_verdict(some: Sequence[Claim]) -> dict[str, list[str]]:
    """What is said and was found; any other verdict than these names a difference that is shown."""
    names, others = {FAILS: "No", HOLDS: "Yes", OPEN: "Not shown"}, "Differences that are shown"
    lists: dict[str, list[str]] = {name: [] for name in (*names.values(), others)}
    for one in some:
        if one.verdict not in (NO_DIFFERENCE, NOT_RUN):
            after = " (asked when the figures were known)" if one.source == AFTERWARDS else ""
            lists[names.get(one.verdict, others)].append(f"{one.said}: {one.found}{after}")
    return lists


def nested(words: str, lines: Sequence[str]) -> str:
    """A point with points of its own."""
    return "\n".join([f"* **{words}**:", *(f"  * {line}" for line in lines)])


def better_than_capo(results: Results) -> str:
    """Whether our own variant is shown to be."""
    found = difference(results, "unit_cost", MAIN)
    words = NOT_RUN if found is None else "shown" if found.better() else "not shown"
    figures = "" if found is None else f" (`unit_cost` minus `{MAIN}`: {found.text()})"
    return f"**Our own `unit_cost` better than CAPO**: {words}{figures}."


def claims_table(found: Sequence[Claim]) -> str:
    rows = [
        (
            one.source,
            one.said,
            one.found,
            f"**{one.verdict}**",
            one.seeds or "–",
            ", ".join(f"`{job}`" for job in one.jobs),
        )
        for one in found
    ]
    return table(("who", "claim", "here", "holds?", "in seeds", "jobs, less the seed"), rows)


def variant_table(results: Results, names: Mapping[str, str]) -> str:
    header = ("", "accuracy (of each seed)", "tokens kept (of each seed)", "over FixedScale")
    header += (
        "over random pairs",
        "spread",
        "Gini",
        "hits",
        "kept / lost / gained",
        "job, less the seed",
    )
    return table(header, [variant_row(results, name, label) for name, label in names.items()])


def variant_row(results: Results, name: str, label: str) -> list[str]:
    """Accuracy, retention, gains over the baselines there, and where the pixels went."""
    records = results.variant(name)
    if not records:
        return [label, *[NOT_RUN] * 8, f"`variant/{name}`"]
    both = [over_seeds(records, value) for value in (accuracy, retention)]
    of_its_own = name == "joint"
    gains = [
        None if of_its_own else results.gain(name, over) for over in (fixed_scale, random_pairs)
    ]
    where = {seed: record["selectivity"] for seed, record in records.items()}
    answers = [one["answers"] for one in where.values()]
    changed = (f"{np.mean([a[key] for a in answers]):.0f}" for key in ("kept", "lost", "gained"))
    return [
        label,
        *(f"{one.percent()} ({one.each()})" for one in both),
        *("–" if gain is None else gain.points() for gain in gains),
        over_seeds(records, spread).plain(),
        over_seeds(where, lambda one: one["gini"]).plain(),
        over_seeds(where, lambda one: one["hit_rate"]).percent(),
        " / ".join(changed),
        f"`variant/{name}`",
    ]


def hits_by_chance(results: Results, name: str) -> str:
    """Of equal scales, which hit as often as any draw."""
    where = {seed: one["selectivity"] for seed, one in results.variant(name).items()}
    return over_seeds(where, lambda one: one["hit_rate_by_chance"]).percent() if where else NOT_RUN


def commits(results: Results) -> str:
    """Of the code that made the figures, and what was made by code that is in no commit."""
    records = results.all()
    made = {name: record["versions"]["commit"] for name, record in records.items()}
    unclean = [f"`{name}`" for name, commit in made.items() if commit.endswith("+changes")]
    text = f"{len(records)} of {results.total} jobs have run, by the code of "
    text += f"{len({commit.removesuffix('+changes') for commit in made.values()})} commits"
    return text + (f"; with changes not committed, {', '.join(unclean)}" if unclean else "")


def late_gains(results: Results, name: str) -> str:
    """By how much the reward of twenty steps of training is above that of the twenty before."""
    gains, last = [], 0
    for record in results.variant(name).values():
        both = zip(record["training"]["step"], record["training"]["reward"], strict=True)
        whole = [(step, reward) for step, reward in both if step % 10 == 0]
        if len(whole) > 3:
            last, rewards = whole[-1][0], [reward for _, reward in whole]
            gains.append(np.mean(rewards[-2:]) - np.mean(rewards[-4:-2]))
    found = ", ".join(f"{100 * gain:+.0f}" for gain in gains)
    return f"steps {last - 19:.0f} to {last:.0f}, by seed: {found} points" if gains else NOT_RUN


def point_table(results: Results, group: str) -> str:
    """Every point of a frontier."""
    records = results.seeds(group)
    rows = []
    for one in next(iter(records.values()))["points"] if records else ():
        some = [point(record, one["method"], one["setting"]) for record in records.values()]
        estimates = (
            Estimate([p[key] for p in some]) for key in ("accuracy", "retention", "encoded")
        )
        rows.append([f"{one['method']}, {one['setting']}", *(e.percent() for e in estimates)])
    header = ("", "accuracy", "tokens kept", "tokens encoded")
    return table(header, rows, source=group, seeds=len(records))


def longer_budget(results: Results) -> str:
    """Share of all pairs' tokens at full size that the fewest pairs take."""
    records = results.seeds("longer")
    if not records:
        return NOT_RUN
    record = next(iter(records.values()))
    return f"{record['budget_pairs'] / max(p['pairs'] for p in record['points']):.1%}"


def longer_table(results: Results) -> str:
    """A row for each number of pairs."""
    records = results.seeds("longer")
    rows = []
    for stride in STRIDES if records else ():
        cells = []
        for method in ("fixed_scale", "resadapt"):
            mine = {s: point(record, method, f"every {stride}") for s, record in records.items()}
            cells.append(over_seeds(mine, lambda p: p["accuracy"]).percent())
            cells.append(over_seeds(mine, lambda p: p["tokens"]).number())
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
