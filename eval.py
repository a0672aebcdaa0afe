"""Evaluates a trained allocator: ``python eval.py --config configs/toy.py``.

Takes the config and the overrides that ``train.py`` was given, and reads the allocator that it left
in the output directory. Prints the frontier and writes ``frontier.json``, ``frontier.png`` and
``scales.png`` beside it.
"""

import shlex
import sys

from resadapt_jax.config import parse_config
from resadapt_jax.errors import UserError, run_cli


def main() -> None:
    config = parse_config(description=__doc__)
    # Imported once the command line is known to be right: jax takes seconds to start.
    from resadapt_jax.evaluation.run import evaluate_run
    from resadapt_jax.report.frontier import frontier_table
    from resadapt_jax.training.config import TrainConfig

    if not isinstance(config, TrainConfig):
        raise UserError(f"eval.py evaluates a TrainConfig, not a {type(config).__name__}")
    record = evaluate_run(config, shlex.join(["python", "train.py", *sys.argv[1:]]))
    for change in record.get("changed_since_training", []):
        print(f"warning: not as trained: {change}", file=sys.stderr)
    print(frontier_table(record))
    print(f"wrote frontier.json, frontier.png and scales.png to {config.output_dir}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
