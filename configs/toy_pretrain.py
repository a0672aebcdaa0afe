"""Pre-trains the tiny backbone on the embedded world.

    python train.py --config configs/toy_pretrain.py

Writes the Hugging Face directory ``runs/toy_pretrain/backbone``, the one that the package ships as
``resadapt_jax/assets/toy_backbone``. The README says how long it takes and what to expect.

``--config-arg qwen3_vl`` makes a tiny Qwen3-VL of the same world, ``--config-arg hard`` a
Qwen2.5-VL that answers about the harder one (`data.toy_world.HARD_WORLD`).
"""

from dataclasses import replace

from resadapt_jax.data.toy_world import HARD_WORLD
from resadapt_jax.training.pretrain import Phase, PretrainConfig


def get_config(arg: str = "") -> PretrainConfig:
    """The shipped backbone's recipe; ``arg`` is empty, ``qwen3_vl`` or ``hard``."""
    shipped = _shipped()
    match arg:
        case "":
            return shipped
        case "qwen3_vl":
            return replace(shipped, output_dir="runs/toy_pretrain_qwen3_vl", family="qwen3_vl")
        case "hard":
            return _hard(shipped)
    raise ValueError(f"configs/toy_pretrain.py takes qwen3_vl, hard or nothing, got {arg!r}")


def _hard(shipped: PretrainConfig) -> PretrainConfig:
    """The same phases with pictures; the last is longer, as is what it shows."""
    crops, questions, clips = shipped.phases
    clips = replace(
        clips,
        num_steps=600,
        batch_size=8,
        size=HARD_WORLD.size,
        num_pairs=HARD_WORLD.num_pairs,
        num_signs=HARD_WORLD.num_signs,
        num_pictures=HARD_WORLD.num_pictures,
    )
    return replace(
        shipped,
        output_dir="runs/toy_pretrain_hard",
        world=replace(HARD_WORLD, seed=shipped.world.seed),
        phases=(crops, replace(questions, num_pairs=5, num_pictures=1), clips),
    )


def _shipped() -> PretrainConfig:
    return PretrainConfig(
        phases=(
            # One sign in a small crop: the tower learns to read.
            Phase(
                num_steps=300,
                batch_size=192,
                size=56,
                num_pairs=1,
                num_signs=1,
                turns=0,
                learning_rate=2e-3,
            ),
            # A few crops with questions: the decoder learns to look a colour up.
            Phase(
                num_steps=300,
                batch_size=48,
                size=56,
                num_pairs=4,
                num_signs=4,
                turns=4,
                learning_rate=1.5e-3,
            ),
            # The embedded world's clips, at mixed sizes.
            Phase(
                num_steps=350,
                batch_size=16,
                size=112,
                num_pairs=12,
                num_signs=4,
                turns=4,
                learning_rate=1e-3,
                full_size_clips=0.3,
            ),
        )
    )
