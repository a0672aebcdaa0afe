"""A row's media as frames on the canvas of its batch.

Nothing raises for bad data: a row whose media cannot be read comes without any, and says why.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resadapt_jax.data.batches import pair_seconds
from resadapt_jax.data.canvas import place_media
from resadapt_jax.data.container import Patience, Source, read_index
from resadapt_jax.data.frame_sampling import SamplingConfig, planned_frames
from resadapt_jax.data.frame_size import native_size
from resadapt_jax.data.frames_cache import FramesCache, frames_key
from resadapt_jax.data.image import read_image
from resadapt_jax.data.media import as_row_error, locate
from resadapt_jax.data.pixels import resize
from resadapt_jax.data.row import Medium, Row, RowError
from resadapt_jax.data.shapes import BatchShape
from resadapt_jax.data.video import read_clip
from resadapt_jax.operators.sizes import SizeLimits
from resadapt_jax.typing import Bool, Float, Int, UInt8

MOST_LOST = 0.1
"""Share of a video's frames above which it is too damaged to be used."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How media are read.

    Attributes:
        cache: of decoded videos.
        time_limit: seconds of computing that a video may take at most, see ``Patience``; a damaged
            one gets five from where damage shows.
    """

    sampling: SamplingConfig
    limits: SizeLimits
    cache: FramesCache | None = None
    time_limit: float = 120.0


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedRow:
    """The frames of a row's media, one medium after the other.

    Attributes:
        frames, frame_mask, medium, source_heights, source_widths: as in `Canvas`.
        times: seconds of each frame from its file's start; 0 in images and padding.
        skipped: why there are no media although the row has some; empty if all is well.
        damage: what the frames lack of a damaged video that is used all the same.
    """

    frames: UInt8[np.ndarray, "F height width 3"]
    frame_mask: Bool[np.ndarray, " F"]
    times: Float[np.ndarray, " F"]
    medium: Int[np.ndarray, " K"]
    source_heights: Int[np.ndarray, " K"]
    source_widths: Int[np.ndarray, " K"]
    skipped: str = ""
    damage: str = ""

    @property
    def pair_seconds(self) -> Float[np.ndarray, " K"]:
        """Mean time of each pair's frames."""
        return pair_seconds(self.times)

    @property
    def seconds_per_medium(self) -> tuple[Float[np.ndarray, " K"], ...]:
        """Mean times of each medium's pairs."""
        count, pairs = int(self.medium.max(initial=-1)) + 1, self.pair_seconds
        return tuple(pairs[self.medium == number] for number in range(count))


def load_row(row: Row, shape: BatchShape, root: Path, loading: Loading) -> LoadedRow:
    """Reads and decodes the media of a row.

    Args:
        shape: of the batch the row goes into.
        root: folder of the media.
    """
    try:
        media = [load_medium(medium, shape, root, loading) for medium in row.media]
        needed = sum(len(one.frames) + len(one.frames) % 2 for one in media)
        if needed > shape.num_frames:
            detail = f"{needed} frames, but its batch holds {shape.num_frames}"
            raise RowError("more frames than the survey found", detail)
    except RowError as error:
        return empty_row(shape, str(error))
    return _laid_out(media, shape)


def empty_row(shape: BatchShape, skipped: str = "") -> LoadedRow:
    """A row without media."""
    return _laid_out([], shape, skipped)


class LoadedMedium(NamedTuple):
    """Frames of a medium at their native size, their seconds, and what damage they have."""

    frames: UInt8[np.ndarray, "F height width 3"]
    times: Float[np.ndarray, " F"]
    damage: str = ""


def _laid_out(media: list[LoadedMedium], shape: BatchShape, skipped: str = "") -> LoadedRow:
    size = {"height": shape.height, "width": shape.width}
    canvas = place_media([one.frames for one in media], num_pairs=shape.num_frames // 2, **size)
    times = np.zeros(shape.num_frames)
    for number, (_, own, _) in enumerate(media):
        times[(canvas.medium == number).repeat(2)] = np.append(own, own[len(own) - len(own) % 2 :])
    damage = "; ".join(one.damage for one in media if one.damage)
    return LoadedRow(**canvas._asdict(), times=times, skipped=skipped, damage=damage)


def load_medium(medium: Medium, shape: BatchShape, root: Path, loading: Loading) -> LoadedMedium:
    """A medium's frames, from the cache if they are there; a damaged video is not kept.

    Raises:
        RowError: it cannot be read, or too much of it is lost.
    """
    source = locate(medium, root)
    with as_row_error(medium):
        if medium.kind == "image":
            loaded = LoadedMedium(_image(source, loading), np.zeros(1))
        elif loading.cache is None:
            loaded = _video(source, medium, loading)
        else:
            loaded = _cached_video(source, medium, loading, loading.cache)
        return loaded._replace(frames=_fit(loaded.frames, shape, loading))


def _cached_video(
    source: Source, medium: Medium, loading: Loading, cache: FramesCache
) -> LoadedMedium:
    asked = medium.min_frames, medium.max_frames, medium.start, medium.end
    key = frames_key(source, asked, loading.sampling, loading.limits)
    known = cache.get(key)
    if known is not None:
        return LoadedMedium(*known)
    loaded = _video(source, medium, loading)
    if not loaded.damage:
        cache.put(key, (loaded.frames, loaded.times))
    return loaded


def _image(source: Source, loading: Loading) -> UInt8[np.ndarray, "1 height width 3"]:
    pixels = read_image(source)
    return resize(pixels, native_size(*pixels.shape[:2], loading.limits))[None]


def _video(source: Source, medium: Medium, loading: Loading) -> LoadedMedium:
    patience = Patience.with_file(source, loading.time_limit)
    index = read_index(source, patience)
    within = {"start": medium.start, "end": medium.end}
    count = planned_frames(
        index.stated_duration,
        index.stated_frames,
        loading.sampling,
        min_frames=medium.min_frames,
        max_frames=medium.max_frames,
        **within,
    )
    clip = read_clip(source, index, count, limits=loading.limits, patience=patience, **within)
    damage = "; ".join(clip.warnings)
    if clip.share_lost > MOST_LOST:
        raise RowError("damaged video", damage)
    return LoadedMedium(clip.frames, clip.times, damage)


def _fit(
    frames: UInt8[np.ndarray, "F height width 3"], shape: BatchShape, loading: Loading
) -> UInt8[np.ndarray, "F height2 width2 3"]:
    """Shrinks frames that are larger than their header said, and than the canvas."""
    height, width = frames.shape[1:3]
    if height <= shape.height and width <= shape.width:
        return frames
    size = native_size(height, width, loading.limits, (shape.height, shape.width))
    return np.stack([resize(frame, size) for frame in frames])
