"""From a scale to a legal frame size: multiples of ``patch * merge`` under pixel limits.

The Python functions are the definition. For a fixed native size it is a step function of the
scale, whose steps `size_table` lists; `native_sizes` finds them under jit.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from resadapt_jax.typing import Float

MAX_SCALE = 4.0
"""Scales above this are treated as this one; `check_scales` refuses them."""


@dataclass(frozen=True, kw_only=True)
class SizeLimits:
    """What the backbone accepts: sides are multiples of `factor`, areas lie within the limits."""

    patch_size: int = 14
    merge_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 768 * 28 * 28

    def __post_init__(self):
        if self.patch_size < 1 or self.merge_size < 1:
            raise ValueError(f"patch_size and merge_size must be positive, got {self}")
        if not 0 < self.min_pixels <= self.max_pixels or self.max_pixels < self.factor**2:
            raise ValueError(f"need 0 < min_pixels <= max_pixels >= factor², got {self}")

    @classmethod
    def of_tower(cls, patch_size: int, merge_size: int) -> "SizeLimits":
        """The same limits for another tower: 768 merged tokens a frame at most."""
        return cls(
            patch_size=patch_size,
            merge_size=merge_size,
            max_pixels=768 * (patch_size * merge_size) ** 2,
        )

    @property
    def factor(self) -> int:
        """Side of one merged token in pixels."""
        return self.patch_size * self.merge_size


def smart_resize(height: int, width: int, limits: SizeLimits) -> tuple[int, int]:
    """The legal size nearest to `height` x `width`, as Qwen2-VL defines it.

    Sides are rounded half to even to multiples of `factor`; if the area then leaves
    [min_pixels, max_pixels], both sides are rescaled by √(area ratio) and floored or ceiled.

    Raises:
        ValueError: a side below one pixel, or one side more than 200 times the other.
    """
    if min(height, width) < 1:
        raise ValueError(f"a frame of {height} x {width} pixels has no legal size")
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"aspect ratio of {height} x {width} exceeds 200")
    factor = limits.factor
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > limits.max_pixels:
        beta = math.sqrt((height * width) / limits.max_pixels)
        h = max(factor, math.floor(height / beta / factor) * factor)
        w = max(factor, math.floor(width / beta / factor) * factor)
    elif h * w < limits.min_pixels:
        beta = math.sqrt(limits.min_pixels / (height * width))
        h = math.ceil(height * beta / factor) * factor
        w = math.ceil(width * beta / factor) * factor
    return h, w


def scaled_size(height: int, width: int, scale: float, limits: SizeLimits) -> tuple[int, int]:
    """smart_resize(max(patch, ⌊H·s⌋), max(patch, ⌊W·s⌋)): ResAdapt's operator O(f, s), eq. (3).

    The product is taken in float64: exact for a scale that is a float32 value, as a policy's is.
    """
    scale = float(scale)
    return smart_resize(
        max(limits.patch_size, math.floor(height * scale)),
        max(limits.patch_size, math.floor(width * scale)),
        limits,
    )


class SizeTable(NamedTuple):
    """Steps of a size as the scale grows: step i holds from `thresholds[i]` on. Host arrays."""

    thresholds: np.ndarray  # [steps] float32, the first is 0
    heights: np.ndarray  # [steps] int32, pixels
    widths: np.ndarray  # [steps] int32, pixels


def _first_scales(side: int, patch_size: int) -> np.ndarray:
    """The smallest float32 scales at which ⌊side·s⌋ reaches each integer above `patch_size`."""
    reached = np.arange(patch_size + 1, math.floor(side * MAX_SCALE) + 1)
    scales = (reached / side).astype(np.float32)
    too_small = scales.astype(np.float64) * side < reached
    return np.where(too_small, np.nextafter(scales, np.float32(np.inf)), scales)


@lru_cache(maxsize=4096)
def size_table(height: int, width: int, limits: SizeLimits) -> SizeTable:
    """Every step of `scaled_size` for one native size, for scales in [0, MAX_SCALE]."""
    smart_resize(height, width, limits)  # raises on a native size that is not legal
    edges = [_first_scales(side, limits.patch_size) for side in (height, width)]
    scales = np.unique(np.concatenate([np.zeros(1, np.float32), *edges]))
    sizes = _scaled_sizes(height, width, scales, limits)
    changes = np.append(True, np.any(np.diff(sizes, axis=1), axis=0))
    return SizeTable(scales[changes], *sizes[:, changes].astype(np.int32))


def _scaled_sizes(
    height: int, width: int, scales: Float[np.ndarray, " S"], limits: SizeLimits
) -> Float[np.ndarray, "2 S"]:
    """`scaled_size` at many scales, by the same operations on float64."""
    sides = np.array([[height], [width]], np.float64) * scales.astype(np.float64)
    sides = np.maximum(limits.patch_size, np.floor(sides))
    factor, area = limits.factor, sides.prod(axis=0)
    legal = np.rint(sides / factor) * factor
    shrink = np.sqrt(area / limits.max_pixels)
    smaller = np.maximum(factor, np.floor(sides / shrink / factor) * factor)
    grow = np.sqrt(limits.min_pixels / area)
    larger = np.ceil(sides * grow / factor) * factor
    above, below = (
        legal.prod(axis=0) > limits.max_pixels,
        legal.prod(axis=0) < limits.min_pixels,
    )
    return np.where(above, smaller, np.where(below, larger, legal))


@lru_cache(maxsize=4096)
def ladder_steps(height: int, width: int, limits: SizeLimits) -> np.ndarray:
    """For each step of `size_table`, the last step of the ladder at or before it; int32.

    The ladder is the steps that enlarge without shrinking a side, so tokens grow along it. The
    table itself is not monotone: where the pixel cap starts to bind it floors, so a larger scale
    can give a smaller frame.
    """
    table = size_table(height, width, limits)
    last = np.zeros(len(table.thresholds), np.int32)
    for i in range(1, len(last)):
        below = last[i - 1]
        taller, wider = (int(side[i] - side[below]) for side in (table.heights, table.widths))
        last[i] = i if min(taller, wider) >= 0 and max(taller, wider) > 0 else below
    return last


@lru_cache(maxsize=4096)
def size_ladder(height: int, width: int, limits: SizeLimits) -> SizeTable:
    """The steps of `size_table` that are on the ladder of `ladder_steps`."""
    kept = np.unique(ladder_steps(height, width, limits))
    return SizeTable(*(column[kept] for column in size_table(height, width, limits)))


def check_scales(scales: Float[np.ndarray, "K"], num_units: int) -> None:
    """Raise unless there is exactly one finite scale in [0, MAX_SCALE] per unit. Host only."""
    scales = np.asarray(scales)
    if scales.shape != (num_units,):
        raise ValueError(f"{num_units} units need {num_units} scales, got shape {scales.shape}")
    if not np.all(np.isfinite(scales) & (scales >= 0) & (scales <= MAX_SCALE)):
        raise ValueError(f"scales must be finite and within [0, {MAX_SCALE}], got {scales}")
