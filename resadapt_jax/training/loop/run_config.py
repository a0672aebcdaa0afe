"""How a run is kept, resumed and watched; the loop of every recipe reads it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Nothing of it changes what is learnt, so a run may go on with other values."""

    checkpoint_every: int = 20
    """Steps between checkpoints."""
    keep_last: int = 2
    """How many of the newest checkpoints are kept."""
    keep_best: int = 1
    """How many of those with the highest ``best_metric`` are kept besides."""
    best_metric: str = "reward"
    """A metric of the steps, more is better; its mean over those since the checkpoint before."""
    export_step: int = 0
    """Export the checkpoint of this step, such as one of the best, instead of the last state; 0:
    the last. Of a run that is finished, nothing but the export is done again."""
    resume_from_previous: bool = False
    """Go on from the newest checkpoint that can be used, where the newest of all cannot. What is
    set aside keeps its files under another name."""
    samples_every: int = 0
    """Steps between tables of prompts with their scales and answers; 0 writes none."""
    wandb_project: str = ""
    """Weights & Biases project that gets the metrics too; needs the package wandb."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("keep_best", "samples_every", "export_step"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
