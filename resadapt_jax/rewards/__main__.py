"""Scores a file of answers: ``python -m resadapt_jax.rewards answers.jsonl``.

Prints what the first answers scored and why, and the mean of each task type; ``--json`` has all.
"""

import dataclasses
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

from resadapt_jax.config import override
from resadapt_jax.errors import UserError, run_cli
from resadapt_jax.files import atomic_write, require_writable
from resadapt_jax.rewards.answers_file import AnswerRow, FieldNames, read_answers
from resadapt_jax.rewards.config import RewardConfig
from resadapt_jax.rewards.pool import ScoringPool
from resadapt_jax.rewards.results import SUCCESS_THRESHOLD, Score, is_success, to_record
from resadapt_jax.rewards.scoring import check_truth
from resadapt_jax.rewards.text import brief
from resadapt_jax.versions import versions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a file of answers, row by row, with the reason of every score.

    The file has JSON lines, or ends with .parquet. A row holds what the model wrote, the ground
    truth and the problem type, under the usual names of such fields or those given here; a dot
    goes into an object, as in reward_model.ground_truth.
    """

    file: tyro.conf.Positional[Path] = tyro.MISSING
    """The answers."""
    output_field: str = ""
    """Field of what the model wrote; if empty output, response, prediction, completion or answer,
    whichever is there."""
    truth_field: str = ""
    """Field of the ground truth; if empty ground_truth, reward_model.ground_truth, truth, target or
    solution."""
    task_field: str = ""
    """Field of the problem type; if empty problem_type, extra_info.problem_type, task_type or
    task."""
    task: str = ""
    """Problem type of the rows that have no field for it."""
    threshold: float = SUCCESS_THRESHOLD
    """An accuracy above it is a success."""
    show: int = 50
    """Rows to print; the summary is of all. A negative number prints them all."""
    json: Path | None = None
    """Where to write every row's score, and the summary."""
    rewards: RewardConfig = RewardConfig()
    """How answers are graded."""

    def __post_init__(self) -> None:
        if math.isnan(self.threshold):
            raise ValueError("threshold must be a number, got nan")


def main() -> None:
    sys.stdout.reconfigure(errors="replace")
    arguments = override(Arguments(), sys.argv[1:], prog="python -m resadapt_jax.rewards")
    if arguments.json is not None:
        require_writable(arguments.json.parent)
    names = {name: getattr(arguments, f"{name}_field") for name in ("output", "truth", "task")}
    fields = FieldNames(**{name: (field,) for name, field in names.items() if field})
    rows = read_answers(arguments.file, fields, arguments.task or None)
    _check(arguments.file, rows, arguments.rewards)
    scores = _score(rows, arguments.rewards)
    shown = len(rows) if arguments.show < 0 else min(len(rows), arguments.show)
    summary = summarise(scores, arguments.threshold)
    if shown:
        print(format_rows(rows[:shown], scores[:shown]) + "\n")
    if shown < len(rows):
        print(f"{len(rows) - shown} more rows: --show -1 prints all, --json FILE writes them\n")
    print(format_summary(summary))
    if arguments.json is not None:
        record = _record(arguments, rows, scores, summary)
        atomic_write(arguments.json, json.dumps(record, indent=1) + "\n")
        print(f"wrote {arguments.json}")


def summarise(scores: list[Score], threshold: float) -> dict[str, dict[str, float | None]]:
    """Of each task type, and of all: counts, share of successes, means of the scores' parts.

    Answers that grading gave up on are counted, as ``ungraded``, and in no mean but format's.
    """
    groups: dict[str, list[Score]] = defaultdict(list)
    for one in scores:
        groups[one.task.value].append(one)
    return {name: _means(group, threshold) for name, group in {**groups, "all": scores}.items()}


def _means(group: list[Score], threshold: float) -> dict[str, float | None]:
    graded = [one for one in group if one.decided]
    return {
        "count": len(group),
        "ungraded": len(group) - len(graded),
        "accuracy": _mean(one.accuracy for one in graded),
        "format": _mean(one.format for one in group),
        "total": _mean(one.total for one in graded),
        "success": _mean(is_success(one.accuracy, threshold) for one in graded),
    }


def _mean(values: Iterable[float]) -> float | None:
    """None of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else None


def format_rows(rows: list[AnswerRow], scores: list[Score]) -> str:
    """A line for each answer: its parts, what was taken as the answer, and why it scored so."""
    header = ("row", "task", "accuracy", "format", "total", "answer", "truth", "why")
    lines = [
        (
            row.place.split()[1],
            one.task.value,
            f"{one.accuracy:.3f}" if one.decided else "-",
            f"{one.format:+.0f}" if one.format else "0",
            f"{one.total:.3f}" if one.decided else "-",
            brief(one.extracted, 24),
            brief(row.truth, 24),
            one.reason + "".join(f"; {name} {part:.3g}" for name, part in one.parts.items()),
        )
        for row, one in zip(rows, scores, strict=True)
    ]
    return _table([header, *lines], numbers={0, 2, 3, 4})


def format_summary(summary: dict[str, dict[str, float | None]]) -> str:
    formats = {"accuracy": ".3f", "format": ".3f", "total": ".3f", "success": ".1%"}
    lines = [
        (
            name,
            str(means["count"]),
            str(means["ungraded"]),
            *(
                "-" if means[part] is None else format(means[part], how)
                for part, how in formats.items()
            ),
        )
        for name, means in summary.items()
    ]
    return _table([("task", "count", "ungraded", *formats), *lines], numbers={1, 2, 3, 4, 5, 6})


def _check(path: Path, rows: list[AnswerRow], config: RewardConfig) -> None:
    checked = ((row.place, row.fault or check_truth(row.task, row.truth, config)) for row in rows)
    wrong = [f"{place}: {reason}" for place, reason in checked if reason is not None]
    if wrong:
        # a mean over some of the rows would pass for one over all
        count = f"{len(wrong)} of {len(rows)} rows cannot be graded"
        raise UserError("\n  ".join([f"{path}, {count}, so none was:", *wrong]))


def _score(rows: list[AnswerRow], config: RewardConfig) -> list[Score]:
    tasks, outputs, truths = zip(*((row.task, row.output, row.truth) for row in rows), strict=True)
    # no bar for what is done at once, nor where nobody looks at it
    with (
        ScoringPool(config.num_workers) as pool,
        tqdm(total=len(rows), unit="answer", delay=1.0, disable=None, leave=False) as bar,
    ):
        return pool.score_batch(tasks, outputs, truths, config, on_scored=bar.update)


def _record(
    arguments: Arguments, rows: list[AnswerRow], scores: list[Score], summary: dict[str, Any]
) -> dict[str, Any]:
    scored = [
        {"place": row.place, "output": row.output, "truth": row.truth, **to_record(one)}
        for row, one in zip(rows, scores, strict=True)
    ]
    return {
        "file": str(arguments.file),
        "config": dataclasses.asdict(arguments.rewards),
        "threshold": arguments.threshold,
        "versions": versions(),
        "summary": summary,
        "rows": scored,
    }


def _table(lines: list[tuple[str, ...]], numbers: set[int]) -> str:
    """Columns two spaces apart, those of ``numbers`` set right; the last as long as it is."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


if __name__ == "__main__":
    sys.exit(run_cli(main))
