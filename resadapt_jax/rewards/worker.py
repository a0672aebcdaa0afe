"""A process of a `ScoringPool`: ``python -m resadapt_jax.rewards.worker``."""

from collections.abc import Iterator
from typing import Any

from resadapt_jax.rewards.child import serve
from resadapt_jax.rewards.pool import questions
from resadapt_jax.rewards.scoring import score, to_record


def reply(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The score of each row in turn."""
    rows, config = questions(message)
    for row in rows:
        yield to_record(score(*row, config))


if __name__ == "__main__":
    serve(reply, prepare=lambda: None)
