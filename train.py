"""Trains: ``python train.py --config configs/toy.py``; ``--help`` lists what can be overridden.

The class of the config says what is trained: an allocator with CAPO, a backbone beside it or by
itself; or the tiny backbone from scratch. On several hosts every one runs the same command.
"""

import sys

from resadapt_jax.config import parse_config
from resadapt_jax.errors import UserError, run_cli
from resadapt_jax.files import require_writable


def main() -> None:
    config = parse_config(description=__doc__)
    # Imported once the command line is known to be right: jax takes seconds to start.
    from resadapt_jax.training.config import TrainConfig
    from resadapt_jax.training.mesh import is_first_process, join_cluster
    from resadapt_jax.training.pretrain import PretrainConfig, pretrain
    from resadapt_jax.training.recipe import train

    match config:
        case TrainConfig():
            recipe = train
        case PretrainConfig():
            recipe = pretrain
        case _:
            raise UserError(f"train.py cannot run a {type(config).__name__}")
    require_writable(config.output_dir)
    join_cluster()
    written = recipe(config)
    if is_first_process():
        print("wrote", *written)


if __name__ == "__main__":
    sys.exit(run_cli(main))
