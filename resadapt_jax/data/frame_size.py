"""At what size frames of images and videos are taken: one rule for all that read."""

import math

from resadapt_jax.errors import UserError
from resadapt_jax.operators.sizes import SizeLimits, smart_resize


def native_size(
    height: int, width: int, limits: SizeLimits, room: tuple[int, int] | None = None
) -> tuple[int, int]:
    """The size that the backbone's own preprocessing gives a frame, shrunk to fit if need be.

    ``smart_resize``; if that is larger than ``room``, both sides times the same factor, floored to
    whole tokens.

    Args:
        room: height and width of what the frame must fit in.

    Raises:
        UserError: the frame has no legal size, or one that is no frame's by the same rule: whole
            tokens make a long strip longer.
    """
    try:
        legal = smart_resize(height, width, limits)
        smart_resize(*legal, limits)
    except ValueError as error:
        raise UserError(f"{error} (of {height} x {width} pixels)") from error
    if room is None or (legal[0] <= room[0] and legal[1] <= room[1]):
        return legal
    shrink = min(room[0] / legal[0], room[1] / legal[1])
    factor = limits.factor
    h, w = (max(1, math.floor(side * shrink / factor + 1e-9)) * factor for side in legal)
    return h, w
