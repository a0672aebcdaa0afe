"""What is fixed when the op is compiled."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

import jax.numpy as jnp

Filter = Literal["bicubic", "bilinear", "lanczos"]
Rounding = Literal["none", "final"]
Precision = Literal["normal", "high"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# What integer coordinates of the weights, 2 · side · side, hold in 32 bits.
MAX_SIDE = 16384
# Rows of an output, for the same reason.
_MAX_ROWS = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class PatchSpec:
    """Layout, filter and numbers of one call, all static: hashable, so it keys a compilation.

    Attributes:
        capacity: merge blocks that the output holds, of all units of a clip together.
        max_height, max_width: bounds of all sizes in pixels; the smaller, the cheaper.
        patch_size: side of a patch in pixels.
        merge_size: side of a merge block in patches; sizes are multiples of their product.
        temporal_patch_size: consecutive frames of a unit, which share a size.
        filter: kernel of the resize; lanczos is defined with antialias only.
        antialias: widen the kernel when shrinking.
        rounding: "none" (ResAdapt), or "final": clamp to [0, 255], round half to even.
        precision: "normal" lets a backend take one product in half precision (0.3 grey level at
            most, below what an output in bfloat16 keeps), "high" asks for float32 (0.01).
        dtype: of the output.
        mean, std: normalisation per channel, on the scale of 0 to 1.

    Raises:
        ValueError: names the argument.
    """

    capacity: int
    max_height: int
    max_width: int
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    filter: Filter = "bicubic"
    antialias: bool = True
    rounding: Rounding = "none"
    precision: Precision = "normal"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        for name in ("patch_size", "merge_size", "temporal_patch_size"):
            self._check_integer(name, MAX_SIDE)
        self._check_integer("capacity", _MAX_ROWS // self.merge_size**2)
        for name in ("max_height", "max_width"):
            self._check_integer(name, MAX_SIDE)
            if (value := getattr(self, name)) % self.block_size:
                raise ValueError(f"{name} must be a multiple of {self.block_size}, got {value}")
        for name, choices in (
            ("filter", ("bicubic", "bilinear", "lanczos")),
            ("rounding", ("none", "final")),
            ("precision", ("normal", "high")),
            ("dtype", ("float32", "bfloat16", "float16")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.filter == "lanczos" and not self.antialias:
            raise ValueError("filter lanczos is defined with antialias only")
        if not isinstance(self.antialias, bool):
            raise ValueError(f"antialias must be True or False, got {self.antialias!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not _is_triple(value) or (name == "std" and min(value) <= 0):
                kind = "finite" if name == "mean" else "positive"
                raise ValueError(f"{name} must be a tuple of 3 {kind} numbers, got {value!r}")

    def _check_integer(self, name: str, most: int) -> None:
        value = getattr(self, name)
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or not 1 <= value <= most:
            raise ValueError(f"{name} must be an integer from 1 to {most}, got {value!r}")

    @property
    def block_size(self) -> int:
        """Side of a merge block in pixels."""
        return self.patch_size * self.merge_size

    @property
    def features(self) -> int:
        """Length of a patch, in the order (channel, time, y, x)."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    @property
    def output_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)


def _is_triple(value: object) -> bool:
    """Whether it is a number for each channel; a tuple, as the spec must hash."""
    if not isinstance(value, tuple) or len(value) != 3:
        return False
    return all(isinstance(x, Real) and math.isfinite(x) for x in value)
