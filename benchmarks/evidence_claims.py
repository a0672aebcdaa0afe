"""The claims of docs/evidence.md: each a sentence with its numbers, and what they say of the paper.

A difference is called one where the 95 % interval of Student's t over the seeds leaves out 0; three
seeds show large differences only.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from evidence_jobs import MAIN, STRIDES
from evidence_results import (
    Estimate,
    Record,
    Results,
    allocated,
    over_fixed_scale,
    over_vanilla,
    paired,
    point,
    vanilla,
)

HOLDS, FAILS, OPEN = "yes", "no", "not shown"
NOT_RUN = "not run"
FEW_POINTS, FEW_TOKENS, MANY_POINTS = 0.03, 0.20, 0.35
"""What the default world was built to show."""
COLLAPSE = -0.20
"""A policy that loses more than so many points against full size has collapsed."""


class Claim(NamedTuple):
    """A row of the table of claims.

    Attributes:
        said: what the paper says, or what is asked.
        found: what was measured.
        verdict: whether it holds here.
        seeds: behind the numbers.
        jobs: of `evidence_jobs`, without their seeds.
    """

    said: str
    found: str
    verdict: str
    seeds: int
    jobs: str


def claims(results: Results) -> list[Claim]:
    """All of them, in the order of the page."""
    return [
        accuracy_only(results),
        direct_cost(results),
        saves(results),
        beats_fixed_scale(results),
        shaping(results),
        compared(results, "CAPO's shaping", MAIN, "cost_outside"),
        compared(results, "the paper's sign of the shaping", "capo_paper", MAIN),
        spreads(results, "paper"),
        spreads(results, "released"),
        compared(results, "a logistic-normal does as well", "logistic_normal", MAIN, alike=True),
        compared(results, "acting per frame", "per_frame", MAIN),
        compared(results, "training the backbone too (ResAdapt-RL)", "joint", MAIN),
        selects(results),
        more_frames(results),
        other_backbone(results),
        breaks_even(results),
        compared(results, "ours: cost credited to units", "unit_cost", MAIN),
        compared(results, "ours on the harder world", "hard_unit_cost", f"hard_{MAIN}"),
        compared(
            results, "CAPO's shaping on the harder world", f"hard_{MAIN}", "hard_cost_outside"
        ),
    ]


def accuracy_only(results: Results) -> Claim:
    records = results.variant("accuracy")
    return _claim(
        "without a cost the policy goes to full size",
        records,
        "variant/accuracy",
        lambda: (
            f"{_accuracy(records).percent()} right, {_retention(records).percent()} of the tokens",
            HOLDS if _retention(records).mean > 0.8 else FAILS,
        ),
    )


def direct_cost(results: Results) -> Claim:
    records = results.variant("direct_cost")

    def found() -> tuple[str, str]:
        lost = over_vanilla(records)
        text = f"{_retention(records).percent()} of the tokens, {lost.points()} against full size"
        return text, HOLDS if lost.mean < COLLAPSE else FAILS

    said = "cost inside the reward collapses to the least sizes"
    return _claim(said, records, "variant/direct_cost", found)


def shaping(results: Results) -> Claim:
    records = results.variant("cost_outside")

    def found() -> tuple[str, str]:
        lost = over_vanilla(records)
        text = f"{_retention(records).percent()} of the tokens, {lost.points()} against full size"
        return f"without it {text}", HOLDS if lost.mean < COLLAPSE else FAILS

    said = "CAPO's asymmetric shaping is what prevents the collapse"
    return _claim(said, records, "variant/cost_outside", found)


def saves(results: Results) -> Claim:
    records = results.variant(MAIN)

    def found() -> tuple[str, str]:
        lost, kept = over_vanilla(records), _retention(records)
        text = f"{kept.percent()} of the tokens, {lost.points()} against full size"
        return text, HOLDS if lost.mean >= -FEW_POINTS and kept.mean <= FEW_TOKENS else FAILS

    said = "CAPO: within 3 points of full size at 20 % of the tokens or less"
    return _claim(said, records, f"variant/{MAIN}", found)


def beats_fixed_scale(results: Results) -> Claim:
    records, fixed = results.variant(MAIN), results.fixed_scale()

    def found() -> tuple[str, str]:
        gains = [over_fixed_scale(allocated(record), fixed) for record in records.values()]
        if not fixed or None in gains:
            return "FixedScale was not measured there", NOT_RUN
        gain = Estimate.of(gains)
        return f"{gain.points()} at matched tokens", HOLDS if gain.mean >= MANY_POINTS else FAILS

    said = "35 points or more above FixedScale at the same tokens"
    return _claim(said, records, f"variant/{MAIN}, frontier", found)


def compared(results: Results, said: str, first: str, second: str, *, alike: bool = False) -> Claim:
    """One variant against another, in accuracy and in tokens.

    Args:
        alike: the claim is that there is no difference.
    """
    ours, theirs = results.variant(first), results.variant(second)
    shared = {seed: ours[seed] for seed in ours.keys() & theirs.keys()}

    def found() -> tuple[str, str]:
        right = paired(ours, theirs, lambda record: allocated(record)["accuracy"])
        tokens = paired(ours, theirs, lambda record: allocated(record)["retention"])
        text = f"{right.points()} right, {tokens.points()} of the tokens"
        same = not (right.sign or tokens.sign)
        if same:
            return text, "no difference shown"
        if alike:
            return text, FAILS
        return text, "a trade" if right.sign == tokens.sign else _direction(right, tokens)

    return _claim(f"{said}: `{first}` less `{second}`", shared, f"variant/{first}, {second}", found)


def _direction(right: Estimate, tokens: Estimate) -> str:
    """Of a difference in accuracy, in tokens, or in both that agree."""
    better = right.sign > 0 or tokens.sign < 0
    return "better" if better else "worse"


def spreads(results: Results, form: str) -> Claim:
    plain, name = results.variant(MAIN), f"{MAIN}+similarity_{form}"
    records = results.variant(name)
    shared = {seed: records[seed] for seed in records.keys() & plain.keys()}

    def found() -> tuple[str, str]:
        more = paired(records, plain, lambda record: record["selectivity"]["spread"])
        was = Estimate.of([record["selectivity"]["spread"] for record in plain.values()])
        verdict = {1: HOLDS, -1: "the opposite", 0: OPEN}[more.sign]
        return (
            f"spread within a clip {more.mean:+.3f} ± {more.stderr:.3f} on {was.plain()}",
            verdict,
        )

    said = f"the similarity term ({form} form) makes scales differ within a clip"
    return _claim(said, shared, f"variant/{name}, {MAIN}", found)


def selects(results: Results) -> Claim:
    records = results.variant(MAIN)

    def found() -> tuple[str, str]:
        where = [record["selectivity"] for record in records.values()]
        hits = Estimate.of([one["hit_rate"] for one in where])
        chance = Estimate.of([one["hit_rate_by_chance"] for one in where])
        text = f"{hits.percent()} of the evidence has the clip's largest scales, by chance "
        more = Estimate.of([one["hit_rate"] - one["hit_rate_by_chance"] for one in where])
        return text + f"{100 * chance.mean:.1f} %", HOLDS if more.sign > 0 else OPEN

    said = "the budget goes to the frames that decide"
    return _claim(said, records, f"variant/{MAIN}", found)


def more_frames(results: Results) -> Claim:
    records = results.seeds("longer")

    def found() -> tuple[str, str]:
        few, many = f"every {STRIDES[0]}", f"every {STRIDES[-1]}"
        mine = Estimate.of([point(r, "resadapt", many)["accuracy"] for r in records.values()])
        first = Estimate.of([point(r, "fixed_scale", few)["accuracy"] for r in records.values()])
        fixed = Estimate.of([point(r, "fixed_scale", many)["accuracy"] for r in records.values()])
        more = Estimate.of(
            [
                point(r, "resadapt", many)["accuracy"] - point(r, "fixed_scale", few)["accuracy"]
                for r in records.values()
            ]
        )
        text = (
            f"{mine.percent()} with {STRIDES[0]} times the video, {first.percent()} with few frames"
            f" at full size, {fixed.percent()} with as many at one scale"
        )
        return text, HOLDS if more.sign > 0 else OPEN

    return _claim("savings buy more frames for the same tokens", records, "longer", found)


def other_backbone(results: Results) -> Claim:
    records = results.seeds("transfer")

    def found() -> tuple[str, str]:
        lost, kept = over_vanilla(records), _retention(records)
        full = Estimate.of([vanilla(record)["accuracy"] for record in records.values()])
        text = f"{lost.points()} against its own {full.percent()}, {kept.percent()} of the tokens"
        return text, HOLDS if lost.mean >= -FEW_POINTS else FAILS

    said = "the allocator serves another backbone unchanged (Qwen3-VL, within 3 points)"
    return _claim(said, records, "transfer", found)


def breaks_even(results: Results) -> Claim:
    record = results.job("break_even")
    rows = record["rows"] if record else []
    cheapest = min(rows, key=lambda row: row["of_vanilla"], default={})

    def found() -> tuple[str, str]:
        text = (
            f"{cheapest['of_vanilla']:.0%} of the time at {cheapest['frames']} frames and "
            f"{cheapest['retention']:.1%} of the tokens, thumbnail allocator included (CPU)"
        )
        return text, HOLDS if cheapest["of_vanilla"] < 1 else FAILS

    said = "allocating pays for itself in time"
    return _claim(said, {0: cheapest} if rows else {}, "break_even", found)


def _claim(
    said: str,
    records: Mapping[int, Record],
    jobs: str,
    found: Callable[[], tuple[str, str]],
) -> Claim:
    """Of what there is; ``found`` gives the sentence and the verdict where there is anything."""
    text, verdict = found() if records else ("", NOT_RUN)
    return Claim(said, text, verdict, len(records), jobs)


def _accuracy(records: Mapping[int, Record]) -> Estimate:
    return Estimate.of([allocated(record)["accuracy"] for record in records.values()])


def _retention(records: Mapping[int, Record]) -> Estimate:
    return Estimate.of([allocated(record)["retention"] for record in records.values()])
