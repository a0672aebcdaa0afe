"""What a user says of rollouts."""

from dataclasses import dataclass

from resadapt_jax.generation.answer import DecodingConfig
from resadapt_jax.operators import CapacityLadder


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How many allocations and answers a prompt gets, and under which limits."""

    num_allocations: int = 16
    """M, allocations drawn per prompt."""
    num_answers: int = 1
    """N, answers per allocation."""
    token_capacity: int = 128
    """Visual tokens of a prompt in a rollout; an allocation that asks for more is fitted to it."""
    capacity_shares: tuple[float, ...] = (1.0,)
    """Capacities to compile for, as shares of the largest: each costs a compilation, and what an
    allocation leaves unused of its own costs time."""
    allocations_per_pass: int = 0
    """Allocations of every prompt that are answered at once, 0 for all; it divides their number."""
    decoding: DecodingConfig = DecodingConfig()

    def __post_init__(self) -> None:
        for name in ("num_allocations", "num_answers", "token_capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_allocations * self.num_answers < 2:
            raise ValueError(
                "num_allocations x num_answers is 1: a group of one answer has no spread to "
                "normalise by; draw more"
            )
        if not self.capacity_shares or not all(0 < share <= 1 for share in self.capacity_shares):
            raise ValueError(f"capacity_shares must be within (0, 1], got {self.capacity_shares}")
        if max(self.capacity_shares) < 1:
            raise ValueError("capacity_shares must end with 1, the capacity that all may need")
        if self.allocations_per_pass < 0 or self.num_allocations % self.pass_size:
            raise ValueError(
                f"allocations_per_pass must divide num_allocations {self.num_allocations}, "
                f"got {self.allocations_per_pass}"
            )

    @property
    def pass_size(self) -> int:
        return self.allocations_per_pass or self.num_allocations

    def shared_prefix(self, length: int) -> int:
        """Positions of a prompt that are prefilled once for all answers to an allocation.

        All but the last: `prefill.prefill` wants one to run for each answer.
        """
        return length - 1 if self.num_answers > 1 else 0

    @property
    def ladder(self) -> CapacityLadder:
        return CapacityLadder.of_shares(self.capacity_shares, self.token_capacity)
