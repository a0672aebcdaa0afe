"""What the loop and a recipe say to each other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from resadapt_jax.report.samples import Sample

Metrics = Mapping[str, Any]
"""Scalars by name, of the device or the host; the same in every process."""


class Batches(Protocol):
    """An iterator over batches whose place can be saved, as grain's are.

    A place counts batches of all processes together: it is the same in each of them.
    """

    def __next__(self) -> Any: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


class StepResult(NamedTuple):
    """What a step hands to the loop.

    Attributes:
        state: after the step.
        metrics: of some, such as ``flops``, the rate is logged too (`throughput.rates`).
        samples: makes what the sample table shows; called at once, and only where one is due.
        skipped, damaged: this process's rows that could not be loaded, and those used although
            damaged (`skip_log.rows_with`).
    """

    state: Any
    metrics: Metrics
    samples: Callable[[], Sequence[Sample]] = tuple
    skipped: Sequence[Mapping[str, Any]] = ()
    damaged: Sequence[Mapping[str, Any]] = ()


Step = Callable[[Any, Any], StepResult]
"""One update: the state (which it may donate) and a batch of the data."""
