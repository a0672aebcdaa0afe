"""Static token capacities: shapes are compiled for a few of them, and each request takes one.

Nothing is cut to fit. A request above the largest is refused here, and by evaluation before its
first clip; rollouts fit it to their largest by `budget.fit_budget`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resadapt_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CapacityLadder:
    """The capacities that may be compiled for, in visual tokens, smallest first.

    Between two steps of ratio g a request wastes (1 - 1/g) of its capacity at most; each step that
    is used costs one compilation.
    """

    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or self.steps[0] < 1 or not rising:
            raise ValueError(f"capacities must be positive and rising, got {self.steps}")

    @classmethod
    def geometric(
        cls, smallest: int, largest: int, *, growth: float = 1.2, multiple: int = 1
    ) -> "CapacityLadder":
        """Steps from ``smallest`` to ``largest``, each about ``growth`` times the one before.

        Args:
            multiple: every step is rounded up to one, as some kernels want.
        """
        if not 1 <= smallest <= largest or growth <= 1.0 or multiple < 1:
            raise ValueError(
                "need 1 <= smallest <= largest, growth > 1 and multiple >= 1, got "
                f"{smallest}, {largest}, {growth} and {multiple}"
            )
        count = math.ceil(round(math.log(largest / smallest) / math.log(growth), 9))
        sizes = [min(smallest * growth**i, largest) for i in range(count + 1)]
        return cls(steps=tuple(sorted({math.ceil(size / multiple) * multiple for size in sizes})))

    @classmethod
    def of_shares(cls, shares: Sequence[float], native: int) -> "CapacityLadder":
        """Steps at these shares of ``native`` tokens, at least 1 each."""
        return cls(steps=tuple(sorted({max(1, round(share * native)) for share in shares})))

    @property
    def largest(self) -> int:
        """The most that any request may ask for."""
        return self.steps[-1]

    def times(self, clips: int) -> "CapacityLadder":
        """The same for this many clips in one sequence."""
        return CapacityLadder(steps=tuple(clips * step for step in self.steps))

    def choose(self, tokens: int) -> int:
        """The smallest capacity that holds ``tokens``.

        Raises:
            UserError: the largest is too small; fit the request to a budget, nothing is cut.
        """
        for capacity in self.steps:
            if tokens <= capacity:
                return capacity
        raise UserError(
            f"{tokens} visual tokens exceed the largest capacity, {self.largest}; "
            "give a budget, or a ladder that goes higher"
        )
