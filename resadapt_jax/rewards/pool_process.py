"""A process of a `ScoringPool`: ``python -m resadapt_jax.rewards.pool_process``."""

from collections.abc import Iterator
from typing import Any

from resadapt_jax.rewards.json_process import serve
from resadapt_jax.rewards.pool import questions
from resadapt_jax.rewards.results import to_record
from resadapt_jax.rewards.scoring import score


def reply(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The score of each row in turn."""
    rows, config = questions(message)
    for row in rows:
        yield to_record(score(*row, config))


if __name__ == "__main__":
    serve(reply, prepare=lambda: None)
