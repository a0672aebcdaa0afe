"""A process of a pool that some answers end: for the tests of what happens then."""

import os
import time
from pathlib import Path

from resadapt_jax.rewards.json_process import serve
from resadapt_jax.rewards.pool import questions
from resadapt_jax.rewards.results import to_record
from resadapt_jax.rewards.scoring import score


def reply(message):
    rows, config = questions(message)
    for row in rows:
        match row[1].split():
            case ["die"]:
                os._exit(3)
            case ["die", "once", path] if not Path(path).exists():
                Path(path).touch()
                os._exit(3)
            case ["sleep"]:
                time.sleep(60)
        yield to_record(score(*row, config))


if __name__ == "__main__":
    serve(reply, prepare=lambda: None)
