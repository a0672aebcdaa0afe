"""The optimiser every recipe uses: AdamW behind a gradient clip, warm-up and cosine decay."""

from dataclasses import dataclass
from functools import cache

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

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup_steps}")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction must be within [0, 1], got {self.final_fraction}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be positive, got {self.max_grad_norm}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 must be within [0, 1), got {self.beta2}")


@cache
def make_optimizer(config: OptimizerConfig, num_updates: int) -> optax.GradientTransformation:
    """The optimiser for a run of ``num_updates`` updates; the same object for equal arguments.

    So programs that it is a static argument of are compiled once.
    """
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
