"""The optimiser every recipe uses: AdamW behind a gradient clip, warm-up and cosine decay."""

from dataclasses import dataclass

import optax


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning rate."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 10
    """Updates of linear warm-up from zero."""
    final_fraction: float = 0.05
    """Where the cosine decay ends, as a fraction of the peak."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Global norm that gradients are clipped to."""
    beta2: float = 0.99
    """Decay of the second moment."""


def make_optimizer(config: OptimizerConfig, num_updates: int) -> optax.GradientTransformation:
    """The optimiser for a run of ``num_updates`` updates."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        min(config.warmup_steps, num_updates - 1),
        num_updates,
        config.final_fraction * config.learning_rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(schedule, b2=config.beta2, weight_decay=config.weight_decay),
    )
