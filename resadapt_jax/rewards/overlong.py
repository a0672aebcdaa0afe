"""A penalty for answers that come near the limit of their length."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it imports jax, which the processes that grade do not need
    from resadapt_jax.typing import Float, Int


def overlong_penalty(
    lengths: "Int[np.ndarray, '*S']", limit: int, buffer: int
) -> "Float[np.ndarray, '*S']":
    """0 up to ``limit - buffer`` tokens, then falling linearly to -1 at ``limit``; float32.

    DAPO's soft punishment (arXiv 2503.14476, section 3.4); ResAdapt's released code has it with a
    buffer of 4096, added to the other rewards with weight 1.

    Args:
      lengths: tokens of each answer.
      limit: the longest answer that may be generated, in tokens.
      buffer: the last tokens of these, over which the penalty grows.

    Raises:
      ValueError: a buffer that is not within 1 and the limit.
    """
    if not 0 < buffer <= limit:
        raise ValueError(f"buffer must be from 1 to limit {limit}, got {buffer}")
    excess = (np.asarray(lengths) - (limit - buffer)) / buffer
    return np.clip(-excess, -1.0, 0.0).astype(np.float32)
