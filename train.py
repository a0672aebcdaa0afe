"""Trains: ``python train.py --config configs/toy.py``; ``--help`` lists what can be overridden.

The class of the config says what is trained: an allocator with CAPO, or the tiny backbone.
"""

import sys

from resadapt_jax.config import parse_config
from resadapt_jax.errors import UserError, run_cli


def main() -> None:
    config = parse_config(description=__doc__)
    # Imported once the command line is known to be right: jax takes seconds to start.
    from resadapt_jax.training.capo import train
    from resadapt_jax.training.config import TrainConfig
    from resadapt_jax.training.pretrain import PretrainConfig, pretrain

    match config:
        case TrainConfig():
            directory = train(config)
        case PretrainConfig():
            directory = pretrain(config)
        case _:
            raise UserError(f"train.py cannot run a {type(config).__name__}")
    print(f"wrote {directory}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
