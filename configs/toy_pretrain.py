"""Pre-trains the tiny backbone on the embedded world.

    python train.py --config configs/toy_pretrain.py

Writes the Hugging Face directory ``runs/toy_pretrain/backbone``, the one that the package ships as
``resadapt_jax/assets/toy_backbone``. The README says how long it takes and what to expect.
"""

from resadapt_jax.training.pretrain import Phase, PretrainConfig


def get_config(arg: str = "") -> PretrainConfig:
    """The shipped backbone's recipe; it takes no argument."""
    if arg:
        raise ValueError(f"configs/toy_pretrain.py takes no argument, got {arg!r}")
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
