"""Scoring spread over processes."""

import dataclasses
import functools
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from resadapt_jax.rewards.config import DEFAULT, RewardConfig
from resadapt_jax.rewards.formatting import format_reward
from resadapt_jax.rewards.json_process import JsonProcess, ProcessDied
from resadapt_jax.rewards.results import Score, from_record
from resadapt_jax.rewards.scoring import score
from resadapt_jax.rewards.task_type import TaskType

CHUNK = 16
"""Answers that a process is given at a time."""

_MODULE = "resadapt_jax.rewards.pool_process"
# More than any answer can take, symbolic comparison on a busy machine included.
_PATIENCE = 300.0

Row = tuple[TaskType, str, str]


class ScoringPool:
    """Scores batches in processes of its own, or in this one if ``num_workers`` is 0.

    Processes start with the first batch and stay until `close`. One that dies is replaced; an
    answer at which two in a row die gets accuracy 0, and the reason says so.
    """

    def __init__(self, num_workers: int) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {num_workers}")
        self._num_workers = num_workers
        self._threads = ThreadPoolExecutor(max(1, num_workers), "scoring")
        self._idle: queue.SimpleQueue[JsonProcess | None] = queue.SimpleQueue()
        for _ in range(num_workers):
            self._idle.put(None)

    def score_batch(
        self,
        tasks: Sequence[TaskType | str | None],
        outputs: Sequence[str],
        truths: Sequence[str],
        config: RewardConfig = DEFAULT,
        *,
        on_scored: Callable[[int], object] = lambda count: None,
    ) -> list[Score]:
        """One score per output, in order; see `scoring.score`.

        Args:
          on_scored: told how many more were scored, in the thread that asked.

        Raises:
          ValueError: sequences of different lengths.
          UserError: an unknown task type, and no default.
        """
        named = {label: config.task_of(label) for label in set(tasks)}
        triples = zip(tasks, outputs, truths, strict=True)
        rows = [(named[label], output, truth) for label, output, truth in triples]
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        score_chunk = functools.partial(
            self._score_chunk if self._num_workers else _score_here, config
        )
        run = self._threads.map if self._num_workers else map
        scores = []
        for scored in run(score_chunk, chunks):
            scores += scored
            on_scored(len(scored))
        return scores

    def close(self) -> None:
        """Ends the processes."""
        self._threads.shutdown(cancel_futures=True)
        for _ in range(self._num_workers):
            child = self._idle.get()
            if child is not None:
                child.close()
            self._idle.put(None)

    def __enter__(self) -> "ScoringPool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _score_chunk(self, config: RewardConfig, rows: Sequence[Row]) -> list[Score]:
        child, scores, failed_at = self._idle.get(), [], -1
        try:
            while len(scores) < len(rows):
                try:
                    child = child or JsonProcess(_MODULE)
                    _ask(child, rows[len(scores) :], config, scores)
                except ProcessDied as died:
                    child.close()
                    child = None
                    if failed_at == len(scores):
                        scores.append(_without_grade(rows[failed_at], config, str(died)))
                        failed_at = -1
                    else:
                        failed_at = len(scores)
        except BaseException:  # replies that nobody took must not be taken for others
            if child is not None:
                child.close()
            child = None
            raise
        finally:
            self._idle.put(child)
        return scores


@functools.cache
def shared_pool(num_workers: int) -> ScoringPool:
    """The one pool of this size, which ends with the program."""
    return ScoringPool(num_workers)


def _ask(
    child: JsonProcess, rows: Sequence[Row], config: RewardConfig, scores: list[Score]
) -> None:
    """Adds the score of each row to ``scores`` as it comes."""
    child.send({"config": dataclasses.asdict(config), "rows": rows})
    for _ in rows:
        scores.append(from_record(child.receive(_PATIENCE)))


def _score_here(config: RewardConfig, rows: Sequence[Row]) -> list[Score]:
    return [score(*row, config) for row in rows]


def _without_grade(row: Row, config: RewardConfig, reason: str) -> Score:
    task, output, _ = row
    form = format_reward(output, config.format, config.malformed)
    return Score(
        accuracy=0.0,
        format=form,
        total=config.format_weight * form,
        task=task,
        extracted="",
        reason=f"not graded: two processes died of it, {reason}",
        decided=False,
    )


def questions(message: dict[str, Any]) -> tuple[list[Row], RewardConfig]:
    """What `_ask` sent."""
    rows = [(TaskType(task), output, truth) for task, output, truth in message["rows"]]
    return rows, RewardConfig(**message["config"])
