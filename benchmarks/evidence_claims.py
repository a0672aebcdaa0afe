"""The claims of docs/evidence.md: each with its numbers, and what they say of it.

A bound is passed, or a difference is one, where the 95 % interval of Student's t over the seeds
leaves it out; three seeds show large differences only, a single one none.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from evidence_jobs import MAIN
from evidence_results import (
    Baseline,
    Bound,
    Difference,
    Estimate,
    Record,
    Results,
    accuracy,
    allocated,
    difference,
    fixed_scale,
    frontier_of,
    gain_over,
    lead,
    over_seeds,
    paired,
    point,
    random_pairs,
    retention,
)
from evidence_runs import STRIDES, variant_names

HOLDS, FAILS, OPEN = "yes", "no", "not shown"
VERDICTS = {1: HOLDS, 0: OPEN, -1: FAILS}
NO_DIFFERENCE = "no difference shown"
NOT_RUN = "not run"
PAPER, RELEASE, GOAL, OURS = "paper", "release", "our goal", "our question"
AFTERWARDS = "our question, afterwards"
COLLAPSE = -0.20
"""A policy that loses more than so much accuracy against full size has collapsed."""
HARDER = "harder world, "
SHAPED = (PAPER, "capo_paper"), (RELEASE, MAIN)
"""CAPO as each of them has it."""


class Claim(NamedTuple):
    """A row of the table of claims.

    Attributes:
        source: who says so: the paper, the released code, our own goal for this world, or a
            question of ours, before or after the figures were known.
        said: what is claimed.
        found: what was measured.
        verdict: whether it holds here, or what differs.
        seeds: in how many of them it holds, taken alone; empty where there are none.
        jobs: of `evidence_jobs` that made the figures.
    """

    source: str
    said: str
    found: str
    verdict: str
    seeds: str
    jobs: tuple[str, ...]


def claims(results: Results) -> list[Claim]:
    """All of them, in the order of the page."""
    return [*_default_world(results), *_harder_world(results), *_elsewhere(results)]


def _default_world(results: Results) -> list[Claim]:
    ask = partial(compared, results)
    return [
        accuracy_only(results),
        collapses(results),
        ask(PAPER, "CAPO beats cost inside the reward", MAIN, "direct_cost", more_accurate),
        ask(OURS, "cost outside, not inside, unshaped", "cost_outside", "direct_cost"),
        *(prevents_collapse(results, source, name) for source, name in SHAPED),
        *(better_shaped(results, source, name) for source, name in SHAPED),
        ask(OURS, "the paper's form, not the release's", "capo_paper", MAIN),
        ask(PAPER, "CAPO saves tokens", MAIN, "accuracy", fewer_tokens),
        ask(OURS, "what CAPO saves uncapped", f"{MAIN}_uncapped", "accuracy_uncapped"),
        ask(OURS, "what the cap does to CAPO", MAIN, f"{MAIN}_uncapped"),
        saves(results, MAIN),
        beats_fixed_scale(results, MAIN),
        beats_random_pairs(results, MAIN),
        depends_on_the_question(results, "frontier"),
        near_constant(results),
        spreads(results, "paper", MAIN),
        spreads(results, "released", MAIN),
        spreads(results, "paper", "accuracy"),
        spreads(results, "released", "accuracy"),
        *(ask(OURS, "the similarity term", *pair) for pair in _similarity_pairs()),
        saves(results, "capo_paper+similarity_paper"),
        saves(results, f"{MAIN}+similarity_paper"),
        ask(PAPER, "the policy's family is secondary", "logistic_normal", MAIN, as_good),
        ask(OURS, "acting per frame, not per pair", "per_frame", MAIN),
        ask(PAPER, "training the backbone too helps", "joint", MAIN, more_accurate),
        ask(OURS, "`unit_cost`, not CAPO", "unit_cost", MAIN),
        saves(results, "unit_cost"),
        beats_fixed_scale(results, "unit_cost"),
    ]


def _similarity_pairs() -> list[tuple[str, str]]:
    """Each method with the similarity term, in either form, and without."""
    names = [name for name in variant_names() if "+" in name]
    return [(name, name.partition("+")[0]) for name in names]


def _harder_world(results: Results) -> list[Claim]:
    main, said = f"hard_{MAIN}", f"{HARDER}CAPO saves tokens"
    return [
        compared(results, PAPER, said, main, "hard_accuracy", fewer_tokens),
        *(better_shaped(results, source, f"hard_{name}", HARDER) for source, name in SHAPED),
        beats_random_pairs(results, main),
        depends_on_the_question(results, "hard_frontier", HARDER),
    ]


def _elsewhere(results: Results) -> list[Claim]:
    longer = (more_frames(results, stride) for stride in STRIDES[1:])
    return [*longer, other_backbone(results), breaks_even(results), released_breaks_even(results)]


def accuracy_only(results: Results) -> Claim:
    said = "without a cost scales go to the upper bound (here: 90 % of the tokens)"
    records, jobs = results.variant("accuracy_uncapped"), ("variant/accuracy_uncapped",)
    if not records:
        return not_run(PAPER, said, jobs)
    kept = over_seeds(records, retention)
    found = f"{kept.percent()} of the tokens, {over_seeds(records, accuracy).percent()} right"
    return Claim(PAPER, said, found, *judged(Bound(kept, 0.9)), jobs)


def collapses(results: Results) -> Claim:
    said = "cost inside the reward collapses to the least sizes (20 points lost, under 10 % of the "
    said += "tokens)"
    records, jobs = results.variant("direct_cost"), ("variant/direct_cost",)
    if not records:
        return not_run(PAPER, said, jobs)
    lost, kept = over_seeds(records, lead), over_seeds(records, retention)
    passed = judged(Bound(lost, COLLAPSE, above=False), Bound(kept, 0.1, above=False))
    return Claim(PAPER, said, cost_and_loss(records), *passed, jobs)


def prevents_collapse(results: Results, source: str, name: str) -> Claim:
    said = f"CAPO's asymmetric shaping, {source}'s form, is what prevents a collapse (20 "
    said += "points lost without it, fewer with it)"
    jobs = (f"variant/{name}", "variant/cost_outside")
    shaped, plain = (results.seeds(job) for job in jobs)
    if not shaped or not plain:
        return not_run(source, said, jobs)
    passed = judged(
        Bound(over_seeds(shaped, lead), COLLAPSE),
        Bound(over_seeds(plain, lead), COLLAPSE, above=False),
    )
    found = f"with it {cost_and_loss(shaped)}; without {cost_and_loss(plain)}"
    return Claim(source, said, found, *passed, jobs)


def better_shaped(results: Results, source: str, name: str, where: str = "") -> Claim:
    said = f"{where}CAPO's shaping, {source}'s form, beats none"
    plain = f"{name.partition('capo')[0]}cost_outside"
    return compared(results, source, said, name, plain, more_accurate)


def saves(results: Results, name: str) -> Claim:
    said = f"`{name}`: within 3 points of full size at 20 % of the tokens or less"
    records, jobs = results.variant(name), (f"variant/{name}",)
    if not records:
        return not_run(GOAL, said, jobs)
    lost, kept = over_seeds(records, lead), over_seeds(records, retention)
    passed = judged(Bound(lost, -0.03), Bound(kept, 0.2, above=False))
    return Claim(GOAL, said, cost_and_loss(records), *passed, jobs)


def beats_fixed_scale(results: Results, name: str) -> Claim:
    said = "35 points or more above FixedScale at the same tokens"
    return beats(results, GOAL, name, said, fixed_scale, 0.35)


def beats_random_pairs(results: Results, name: str) -> Claim:
    said = "above random pairs at full size at the same tokens"
    return beats(results, OURS, name, said, random_pairs, 0.0)


def beats(
    results: Results, source: str, name: str, said: str, over: Baseline, bound: float
) -> Claim:
    """A variant above a baseline by more than a bound."""
    gain, said = results.gain(name, over), f"`{name}`: {said}"
    jobs = f"variant/{name}", frontier_of(name)
    if gain is None:
        return not_run(source, said, jobs)
    return Claim(source, said, gain.points(), *judged(Bound(gain, bound)), jobs)


def depends_on_the_question(results: Results, job: str, where: str = "") -> Claim:
    said, jobs = f"{where}the budget goes to the frames that the question is about", (job,)
    records = results.seeds(job)
    if not records:
        return not_run(PAPER, said, jobs)

    def other(record: Record) -> float:
        return point(record, "control", "other_query")["accuracy"]

    more = over_seeds(records, lambda record: accuracy(record) - other(record))
    found = f"{over_seeds(records, accuracy).percent()} right, "
    found += f"{over_seeds(records, other).percent()} if allocated for another clip's question"
    return Claim(PAPER, said, found, *judged(Bound(more)), jobs)


def near_constant(results: Results) -> Claim:
    said = "without the similarity term scales hardly differ within a clip (spread under .003)"
    records, jobs = results.variant(MAIN), (f"variant/{MAIN}",)
    if not records:
        return not_run(PAPER, said, jobs)
    found = over_seeds(records, spread)
    passed = judged(Bound(found, 0.003, above=False))
    return Claim(PAPER, said, f"spread {found.plain()}", *passed, jobs)


def spreads(results: Results, form: str, name: str) -> Claim:
    source = RELEASE if form == "released" else PAPER
    said = f"the similarity term, {source}'s form, makes scales of `{name}` differ within a clip"
    jobs = (f"variant/{name}+similarity_{form}", f"variant/{name}")
    records, plain = (results.seeds(job) for job in jobs)
    shared = records.keys() & plain.keys()
    if not shared:
        return not_run(source, said, jobs)
    more = paired(records, plain, spread)
    was = over_seeds({seed: plain[seed] for seed in shared}, spread)
    found = f"spread {more.signed()} on {was.plain()}"
    return Claim(source, said, found, *judged(Bound(more)), jobs)


def more_frames(results: Results, stride: int) -> Claim:
    """Of every ``stride``-th frame, against the best that FixedScale makes of the tokens."""
    times = STRIDES[0] // stride
    said = f"savings buy {times} x the frames, and more right answers, for no more tokens"
    source = PAPER if stride == 1 else AFTERWARDS
    records, jobs = results.seeds("longer"), ("longer",)
    if not records:
        return not_run(source, said, jobs)
    ours, names = f"every {stride}", [f"every {stride}" for stride in STRIDES]

    def mine(record: Record) -> float:
        return point(record, "resadapt", ours)["accuracy"]

    best = max(names, key=lambda name: over_seeds(records, fixed_at(name)).mean)
    more = over_seeds(records, lambda record: mine(record) - fixed_at(best)(record))
    pairs = {p["setting"]: p["pairs"] for p in next(iter(records.values()))["points"]}
    fixed = over_seeds(records, fixed_at(best))
    found = f"{over_seeds(records, mine).percent()} right with {pairs[ours]} pairs, FixedScale"
    found += f" at best {fixed.percent()} (with {pairs[best]}): {more.points()}"
    return Claim(source, said, found, *judged(Bound(more)), jobs)


def fixed_at(setting: str) -> Callable[[Record], float]:
    """Accuracy of FixedScale in a record of `more_frames`."""
    return lambda record: point(record, "fixed_scale", setting)["accuracy"]


def other_backbone(results: Results) -> Claim:
    said = "the allocator serves a Qwen3-VL unchanged, within 3 points, better than random pairs"
    records, jobs = results.seeds("transfer"), ("transfer",)
    if not records:
        return not_run(PAPER, said, jobs)
    gains = [gain_over(random_pairs, allocated(record), record) for record in records.values()]
    gain = Estimate(gains)
    found = f"{cost_and_loss(records)}, {gain.points()} over random pairs there"
    passed = judged(Bound(over_seeds(records, lead), -0.03), Bound(gain))
    return Claim(PAPER, said, found, *passed, jobs)


def breaks_even(results: Results) -> Claim:
    """In all cases tried; the times found are those nearest to a quarter of the tokens."""
    said, jobs = "our thumbnail allocator pays for itself in time on a CPU", ("break_even",)
    record = results.job("break_even")
    if record is None:
        return not_run(OURS, said, jobs)
    tried = [row for row in record["rows"] if row["allocator_s"] > 0]
    paying = [row for row in tried if row["of_vanilla"] < 1]
    found = f"in {len(paying)} of {len(tried)} cases of one run"
    for frames in sorted({row["frames"] for row in tried}):
        row = quarter([row for row in tried if row["frames"] == frames])
        found += f", {frames} frames with {row['retention']:.0%} of the tokens in "
        found += f"{row['of_vanilla']:.0%} of the time"
    return Claim(OURS, said, found, HOLDS if paying == tried else FAILS, "", jobs)


def quarter(rows: Sequence[Record]) -> Record:
    """The row that keeps a quarter of the tokens, or what comes nearest to it."""
    return min(rows, key=lambda row: abs(row["retention"] - 0.25))


def released_breaks_even(results: Results) -> Claim:
    """The longest clips at a quarter of the tokens."""
    said = "the released allocator, SmolVLM2-256M, pays before a backbone of 0.1 B"
    jobs = ("break_even",)
    record = results.job("break_even")
    if record is None:
        return not_run(OURS, said, jobs)
    longest = max(row["frames"] for row in record["rows"])
    rows = [row for row in record["rows"] if row["frames"] == longest]
    full = max(rows, key=lambda row: row["retention"])
    some = quarter(rows)
    released = record["released_allocator"]
    frame = (released["encode_s"] + released["predict_s"]) / released["frames"]
    saved = full["backbone_s"] - some["backbone_s"]
    found = f"{longest * frame:.1f} s of allocating to save {saved:.1f} s ({longest} frames, "
    found += f"{some['retention']:.0%} of the tokens): it pays before a backbone "
    found += f"{longest * frame / saved:.1f} times as slow"
    return Claim(OURS, said, found, HOLDS if saved > longest * frame else FAILS, "", jobs)


def more_accurate(found: Difference) -> int:
    return found.signs()[0]


def fewer_tokens(found: Difference) -> int:
    return -found.signs()[1]


def as_good(found: Difference) -> int:
    """A difference contradicts it; that none shows does not show it."""
    return -any(found.signs())


def compared(
    results: Results,
    source: str,
    said: str,
    first: str,
    second: str,
    predicted: Callable[[Difference], int] | None = None,
) -> Claim:
    """One variant minus another, in accuracy and in tokens.

    Args:
        predicted: 1 where the difference shows what is said, -1 where it contradicts it, 0 where it
            does neither; None where nothing is predicted.
    """
    said, jobs = f"{said}: `{first}` minus `{second}`", (f"variant/{first}", f"variant/{second}")
    found = difference(results, first, second)
    if found is None:
        return not_run(source, said, jobs)
    seeds = f"{found.accuracy.alike()} and {found.tokens.alike()} of {found.tokens.count}"
    if predicted is None:
        return Claim(source, said, found.text(), found.shown() or NO_DIFFERENCE, seeds, jobs)
    text = found.text() + (f" ({found.shown()})" if found.shown() else "")
    return Claim(source, said, text, VERDICTS[predicted(found)], seeds, jobs)


def judged(*bounds: Bound) -> tuple[str, str]:
    """Verdict of bounds that must all be passed, and in how many seeds they are, taken alone."""
    passed = min(bound.passed() for bound in bounds)
    seeds = np.all([bound.in_seeds() for bound in bounds], axis=0)
    return VERDICTS[passed], f"{seeds.sum()} of {len(seeds)}"


def cost_and_loss(records: Mapping[int, Record]) -> str:
    kept, lost = over_seeds(records, retention), over_seeds(records, lead)
    return f"{kept.percent()} of the tokens, {lost.points()} against full size"


def spread(record: Record) -> float:
    """Standard deviation of the scales within a clip."""
    return record["selectivity"]["spread"]


def not_run(source: str, said: str, jobs: tuple[str, ...]) -> Claim:
    return Claim(source, said, "", NOT_RUN, "", jobs)
