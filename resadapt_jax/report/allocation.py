"""What a user is shown of an allocation: a table, a record for allocation.json, a contact sheet."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from resadapt_jax.allocator import ScaleRange
from resadapt_jax.data.video import VideoClip
from resadapt_jax.operators import SizeLimits
from resadapt_jax.report.contact_sheet import Tile, contact_sheet


@dataclass(frozen=True, kw_only=True, eq=False)
class Allocation:
    """A size for each of a clip's K temporal pairs.

    Attributes:
        seconds: mean time of the pair's frames; a lone last frame's own.
        scales: linear scale of each pair; realised, not requested, where a budget changed it.
        heights, widths: in pixels.
        tokens: visual tokens each pair puts before the language model.
        native_tokens: tokens of all pairs at scale 1.
        budget: tokens that were not to be exceeded.
        limits: the legal sizes.
    """

    seconds: Float[np.ndarray, " K"]
    scales: Float[np.ndarray, " K"]
    heights: Int[np.ndarray, " K"]
    widths: Int[np.ndarray, " K"]
    tokens: Int[np.ndarray, " K"]
    native_tokens: int
    budget: int | None
    limits: SizeLimits

    @property
    def total(self) -> int:
        """Visual tokens of the clip."""
        return int(self.tokens.sum())

    @property
    def retention(self) -> float:
        """ρ = Σ n_t(s_t) / Σ n_t(1), ResAdapt (12), arXiv 2603.28610."""
        return self.total / self.native_tokens

    def pairs(self) -> Iterator["Pair"]:
        """One row per temporal pair."""
        columns = (self.seconds, self.scales, self.heights, self.widths, self.tokens)
        return map(Pair, *(column.tolist() for column in columns))


class Pair(NamedTuple):
    """One temporal pair; its fields are the keys of ``pairs`` in allocation.json."""

    seconds: float
    scale: float
    height: int
    width: int
    tokens: int


def format_table(allocation: Allocation) -> str:
    """One line per temporal pair, then the totals."""
    lines = [f"{'seconds':>9} {'scale':>6} {'size':>10} {'tokens':>7}"]
    for pair in allocation.pairs():
        size = f"{pair.width}x{pair.height}"
        lines.append(f"{pair.seconds:9.1f} {pair.scale:6.2f} {size:>10} {pair.tokens:7d}")
    return "\n".join([*lines, f"total {', '.join(_totals(allocation))}"])


def to_record(allocation: Allocation, clip: VideoClip, path: Path, query: str) -> dict[str, Any]:
    """The contents of allocation.json, of JSON's types; sizes are [height, width] in pixels."""
    return {
        "clip": str(path),
        "query": query,
        "budget": allocation.budget,
        "tokens": allocation.total,
        "native_tokens": allocation.native_tokens,
        "retention": allocation.retention,
        "pairs": [pair._asdict() for pair in allocation.pairs()],
        "frames": len(clip.times),
        "frames_lost": clip.frames_lost,
        "duration": clip.duration,
        "native_size": list(clip.frames.shape[1:3]),
        "source_size": [clip.source_height, clip.source_width],
        "limits": asdict(allocation.limits),
    }


def draw(
    allocation: Allocation, clip: VideoClip, path: Path, query: str, scale_range: ScaleRange
) -> Image.Image:
    """The contact sheet; the first frame stands for its pair."""
    tiles = [
        Tile(frame=frame, **pair._asdict())
        for frame, pair in zip(clip.frames[::2], allocation.pairs(), strict=True)
    ]
    lost = [f"frames lost {clip.frames_lost}"] if clip.frames_lost else []
    return contact_sheet(
        tiles,
        title=query,
        subtitle=" · ".join([path.name, *_totals(allocation), *lost]),
        scale_range=(scale_range.s_min, scale_range.s_max),
    )


def _totals(allocation: Allocation) -> list[str]:
    return [
        f"{allocation.total} of {allocation.native_tokens} tokens",
        f"retention {allocation.retention:.1%}",
        *([] if allocation.budget is None else [f"budget {allocation.budget}"]),
    ]
