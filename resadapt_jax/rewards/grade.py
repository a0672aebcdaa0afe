"""What a grader makes of an answer."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grade:
    """How right one answer is, and why.

    Attributes:
      accuracy: in [0, 1].
      reason: what was compared with what, on one short line.
      extracted: what of the answer was compared.
      parts: where a kind is graded by several things, what each came to.
    """

    accuracy: float
    reason: str
    extracted: str
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
