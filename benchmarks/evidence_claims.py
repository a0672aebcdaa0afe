"""The claims of docs/evidence.md: each with its numbers, and what they say of it.

A bound is passed, or a difference is one, where the 95 % interval of Student's t over the seeds
leaves it out; three seeds show large differences only, a single one none.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from evidence_jobs import MAIN
from evidence_results import (
    Estimate,
    Record,
    Results,
    accuracy,
    allocated,
    lead,
    over_fixed_scale,
    over_seeds,
    paired,
    point,
    retention,
)
from evidence_runs import STRIDES

HOLDS, FAILS, OPEN = "yes", "no", "not shown"
NOT_RUN = "not run"
PAPER, GOAL, OURS = "paper", "our goal", "our question"
COLLAPSE = -0.20
"""A policy that loses more than so much accuracy against full size has collapsed."""


class Claim(NamedTuple):
    """A row of the table of claims.

    Attributes:
        source: who says so: the paper, our own goal for this world, or a question of ours.
        said: what is claimed.
        found: what was measured.
        verdict: whether it holds here, or what differs.
        seeds: behind the numbers; 0 where they have none.
        jobs: of `evidence_jobs` that made them.
    """

    source: str
    said: str
    found: str
    verdict: str
    seeds: int
    jobs: tuple[str, ...]


def claims(results: Results) -> list[Claim]:
    """All of them, in the order of the page."""
    return [
        accuracy_only(results),
        collapses(results, PAPER, "cost inside the reward", "direct_cost"),
        collapses(results, OURS, "a fifth of that cost still", "direct_cost_light"),
        shaping(results),
        compared(results, PAPER, "CAPO's shaping", MAIN, "cost_outside"),
        compared(results, OURS, "the paper's sign of the shaping", "capo_paper", MAIN),
        saves(results, MAIN),
        beats_fixed_scale(results, MAIN),
        depends_on_the_question(results, "frontier"),
        spreads(results, "paper"),
        spreads(results, "released"),
        compared(results, PAPER, "the policy's family is secondary", "logistic_normal", MAIN),
        compared(results, OURS, "acting per frame, not per pair", "per_frame", MAIN),
        compared(results, PAPER, "training the backbone too (ResAdapt-RL)", "joint", MAIN),
        *(more_frames(results, stride) for stride in STRIDES[1:]),
        other_backbone(results),
        breaks_even(results),
        compared(results, OURS, "crediting the cost to units", "unit_credit", "cost_outside"),
        compared(results, OURS, "`unit_cost` against CAPO", "unit_cost", MAIN),
        saves(results, "unit_cost"),
        beats_fixed_scale(results, "unit_cost"),
        compared(
            results, PAPER, "CAPO's shaping, harder world", f"hard_{MAIN}", "hard_cost_outside"
        ),
        compared(
            results,
            OURS,
            "`unit_cost` against CAPO, harder world",
            "hard_unit_cost",
            f"hard_{MAIN}",
        ),
        depends_on_the_question(results, "hard_frontier", ", harder world"),
    ]


def accuracy_only(results: Results) -> Claim:
    said, jobs = "accuracy alone goes to full size (90 % of the tokens)", ("variant/accuracy",)
    records = results.variant("accuracy")
    if not records:
        return not_run(PAPER, said, jobs)
    kept = over_seeds(records, retention)
    found = f"{kept.percent()} of the tokens, {over_seeds(records, accuracy).percent()} right"
    return Claim(PAPER, said, found, verdict(kept.beyond(0.9)), len(records), jobs)


def collapses(results: Results, source: str, what: str, name: str) -> Claim:
    said, jobs = f"{what} collapses to the least sizes", (f"variant/{name}",)
    records = results.variant(name)
    if not records:
        return not_run(source, said, jobs)
    lost, kept = over_seeds(records, lead), over_seeds(records, retention)
    passed = verdict(-lost.beyond(COLLAPSE), -kept.beyond(0.1))
    return Claim(source, said, cost_and_loss(records), passed, len(records), jobs)


def shaping(results: Results) -> Claim:
    said = "CAPO's asymmetric shaping is what prevents the collapse"
    jobs = (f"variant/{MAIN}", "variant/cost_outside")
    shaped, plain = (results.seeds(job) for job in jobs)
    if not shaped or not plain:
        return not_run(PAPER, said, jobs)
    passed = verdict(
        over_seeds(shaped, lead).beyond(COLLAPSE), -over_seeds(plain, lead).beyond(COLLAPSE)
    )
    found = f"with it {cost_and_loss(shaped)}; without {cost_and_loss(plain)}"
    return Claim(PAPER, said, found, passed, min(len(shaped), len(plain)), jobs)


def saves(results: Results, name: str) -> Claim:
    said = f"`{name}`: within 3 points of full size at 20 % of the tokens or less"
    records, jobs = results.variant(name), (f"variant/{name}",)
    if not records:
        return not_run(GOAL, said, jobs)
    lost, kept = over_seeds(records, lead), over_seeds(records, retention)
    passed = verdict(lost.beyond(-0.03), -kept.beyond(0.2))
    return Claim(GOAL, said, cost_and_loss(records), passed, len(records), jobs)


def beats_fixed_scale(results: Results, name: str) -> Claim:
    said = f"`{name}`: 35 points or more above FixedScale at the same tokens"
    gain, jobs = results.over_fixed_scale(name), (f"variant/{name}", "frontier")
    if gain is None:
        return not_run(GOAL, said, jobs)
    return Claim(GOAL, said, gain.points(), verdict(gain.beyond(0.35)), gain.count, jobs)


def depends_on_the_question(results: Results, job: str, where: str = "") -> Claim:
    said, jobs = f"the budget goes to the frames that the question is about{where}", (job,)
    records = results.seeds(job)
    if not records:
        return not_run(PAPER, said, jobs)

    def other(record: Record) -> float:
        return point(record, "control", "other_query")["accuracy"]

    more = over_seeds(records, lambda record: accuracy(record) - other(record))
    found = f"{over_seeds(records, accuracy).percent()} right"
    found += f", {over_seeds(records, other).percent()} if allocated for another clip's question"
    return Claim(PAPER, said, found, verdict(more.beyond()), len(records), jobs)


def spreads(results: Results, form: str) -> Claim:
    said = f"the similarity term, {form} form, makes scales differ within a clip"
    jobs = (f"variant/{MAIN}+similarity_{form}", f"variant/{MAIN}")
    records, plain = (results.seeds(job) for job in jobs)
    shared = records.keys() & plain.keys()
    if not shared:
        return not_run(PAPER, said, jobs)
    more = paired(records, plain, spread)
    was = over_seeds({seed: plain[seed] for seed in shared}, spread)
    found = f"spread within a clip {more.signed()} on {was.plain()}"
    return Claim(PAPER, said, found, verdict(more.beyond()), len(shared), jobs)


def more_frames(results: Results, stride: int) -> Claim:
    """Of every ``stride``-th frame, against the best that FixedScale makes of the tokens."""
    times = STRIDES[0] // stride
    said = f"savings buy {times} x the frames, and more right answers, for the same tokens"
    records, jobs = results.seeds("longer"), ("longer",)
    if not records:
        return not_run(PAPER, said, jobs)
    ours, names = f"every {stride}", [f"every {stride}" for stride in STRIDES]

    def mine(record: Record) -> float:
        return point(record, "resadapt", ours)["accuracy"]

    best = max(names, key=lambda name: over_seeds(records, fixed_at(name)).mean)
    more = over_seeds(records, lambda record: mine(record) - fixed_at(best)(record))
    pairs = {p["setting"]: p["pairs"] for p in next(iter(records.values()))["points"]}
    fixed = over_seeds(records, fixed_at(best))
    found = f"{over_seeds(records, mine).percent()} right with {pairs[ours]} pairs, FixedScale"
    found += f" at best {fixed.percent()} (with {pairs[best]}): {more.points()}"
    return Claim(PAPER, said, found, verdict(more.beyond()), len(records), jobs)


def fixed_at(setting: str) -> Callable[[Record], float]:
    """Accuracy of FixedScale in a record of `more_frames`."""
    return lambda record: point(record, "fixed_scale", setting)["accuracy"]


def other_backbone(results: Results) -> Claim:
    said = "the allocator serves a Qwen3-VL unchanged, within 3 points, better than FixedScale"
    records, jobs = results.seeds("transfer"), ("transfer",)
    if not records:
        return not_run(PAPER, said, jobs)
    gains = [over_fixed_scale(allocated(record), record) for record in records.values()]
    gain = Estimate.of(gains)
    found = f"{cost_and_loss(records)}, {gain.points()} over FixedScale there"
    passed = verdict(over_seeds(records, lead).beyond(-0.03), gain.beyond())
    return Claim(PAPER, said, found, passed, len(records), jobs)


def breaks_even(results: Results) -> Claim:
    said, jobs = "allocating pays for itself in time", ("break_even",)
    record = results.job("break_even")
    if record is None:
        return not_run(PAPER, said, jobs)
    paying = [row for row in record["rows"] if row["of_vanilla"] < 1]
    tried = [row for row in record["rows"] if row["allocator_s"] > 0]
    found = f"with the thumbnail allocator in {len(paying)} of {len(tried)} cases, on a CPU"
    if paying:
        best = min(paying, key=lambda row: row["of_vanilla"])
        found += f"; at best {best['of_vanilla']:.0%} of the time ({best['frames']} frames, "
        found += f"{best['retention']:.0%} of the tokens)"
    return Claim(PAPER, said, found, HOLDS if paying else FAILS, 0, jobs)


def compared(results: Results, source: str, said: str, first: str, second: str) -> Claim:
    """One variant less another, in accuracy and in tokens."""
    said, jobs = f"{said}: `{first}` less `{second}`", (f"variant/{first}", f"variant/{second}")
    ours, theirs = results.variant(first), results.variant(second)
    count = len(ours.keys() & theirs.keys())
    if not count:
        return not_run(source, said, jobs)
    right, tokens = paired(ours, theirs, accuracy), paired(ours, theirs, retention)
    found = f"accuracy {right.points()}, tokens {tokens.points()}"
    words = {1: "more accurate", -1: "less accurate"}, {1: "more tokens", -1: "fewer tokens"}
    signs = right.beyond(), tokens.beyond()
    shown = [word[sign] for word, sign in zip(words, signs, strict=True) if sign]
    return Claim(source, said, found, ", ".join(shown) or "no difference shown", count, jobs)


def cost_and_loss(records: Mapping[int, Record]) -> str:
    kept, lost = over_seeds(records, retention), over_seeds(records, lead)
    return f"{kept.percent()} of the tokens, {lost.points()} against full size"


def spread(record: Record) -> float:
    """Standard deviation of the scales within a clip."""
    return record["selectivity"]["spread"]


def verdict(*passed: int) -> str:
    """Of conditions that are met (1), missed (-1) or neither, which must all be met."""
    if min(passed) > 0:
        return HOLDS
    return FAILS if min(passed) < 0 else OPEN


def not_run(source: str, said: str, jobs: tuple[str, ...]) -> Claim:
    return Claim(source, said, "", NOT_RUN, 0, jobs)
