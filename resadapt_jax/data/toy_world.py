"""The embedded world: short clips in which the answer is written small, somewhere, for a moment.

A clip shows a drifting grey texture with muted moving boxes. Four signs appear one after another,
each for one or two temporal pairs. A sign's coloured border survives any thumbnail; what is
printed inside (a letter, a number of points, the second at which the sign went up, and a mark that
nobody asks about) has strokes one pixel wide and is legible only near full resolution. A question
names a colour, so the other signs carry wrong answers.

============  =======================================  ==============  ==================
task          question                                 answer          graded as
============  =======================================  ==============  ==================
``which``     Which letter is on the red sign?         ``C``           multiple choice
``how_many``  How many points is the red sign worth?   ``7``           numerical
``when``      When did the red sign go up?             ``4.0 to 5.0``  temporal grounding
============  =======================================  ==============  ==================

Harder worlds (`ToyWorldConfig`) have still pictures beside the clip, each with a sign that is not
in it, and a question with two pieces of evidence:

============  =======================================  ==============  ==================
``both``      Which letters are on the red and the     ``red C blue    exact match
              blue sign?                               F``
============  =======================================  ==============  ==================

Everything is a function of ``(config.seed, index)``: the same pair gives the same clip anywhere.
"""

from dataclasses import dataclass, replace

import numpy as np

from resadapt_jax.data.toy_questions import PROBLEM_TYPES, TASKS
from resadapt_jax.data.toy_signs import COLOURS, DIGITS, LETTERS, MARKS, SIGN, Sign, paint_sign

CLOCK_SECONDS = 12  # a clip lies within the first so many seconds, a longer one has a longer clock
LONGEST_CLOCK = 100  # two digits
FRAMES_PER_SECOND = 2.0
# Signs hang on a grid, give or take a pixel, so that few clips teach a tiny model to read.
GRID = 14


@dataclass(frozen=True, kw_only=True)
class ToyWorldConfig:
    """What the embedded world looks like."""

    seed: int = 0
    """Clips are a function of this seed and their index."""
    num_pairs: int = 12
    """Temporal pairs of a prompt; two frames each."""
    size: int = 112
    """Frame height and width in pixels."""
    num_signs: int = 4
    """Signs of a clip, each of its own colour."""
    longest_sign: int = 2
    """Most pairs that a sign is up for, 1 or 2."""
    num_pictures: int = 0
    """So many of the pairs, the first, are a still picture each, with a sign of another colour."""
    tasks: tuple[str, ...] = TASKS
    """What is asked."""
    least_clock: int = CLOCK_SECONDS
    """Seconds within which a clip lies, if it is not longer itself."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.num_pictures < 0 or not 1 <= self.num_signs <= self.video_pairs:
            raise ValueError(
                f"{self.num_signs} signs and {self.num_pictures} pictures do not fit in "
                f"{self.num_pairs} pairs"
            )
        if self.num_signs + self.num_pictures > len(COLOURS):
            raise ValueError(
                f"{self.num_signs} signs and {self.num_pictures} pictures need more than the "
                f"{len(COLOURS)} colours"
            )
        if self.longest_sign not in (1, 2):
            raise ValueError(f"longest_sign must be 1 or 2, got {self.longest_sign}")
        if not self.tasks or not set(self.tasks) <= PROBLEM_TYPES.keys():
            raise ValueError(f"tasks must be among {tuple(PROBLEM_TYPES)}, got {self.tasks}")
        if "both" in self.tasks and self.num_signs + self.num_pictures < 2:
            raise ValueError("a question about both of two signs needs two")
        if self.size < SIGN + 16:
            raise ValueError(f"frames of {self.size} pixels are too small for signs of {SIGN}")
        if self.clock_seconds > LONGEST_CLOCK:
            raise ValueError(f"{self.clock_seconds} s do not fit on a clock of {LONGEST_CLOCK} s")

    @property
    def num_frames(self) -> int:
        return 2 * self.num_pairs

    @property
    def video_pairs(self) -> int:
        """The pairs that are not pictures."""
        return self.num_pairs - self.num_pictures

    @property
    def native_sizes(self) -> tuple[tuple[int, int]]:
        """Height and width of every frame."""
        return ((self.size, self.size),)

    @property
    def clock_seconds(self) -> int:
        """Seconds that the clock can show."""
        return max(self.least_clock, self.video_pairs)


DEFAULT_WORLD = ToyWorldConfig()
HARD_WORLD = ToyWorldConfig(
    num_pairs=33,
    num_signs=5,
    longest_sign=1,
    num_pictures=1,
    tasks=(*TASKS, "both"),
)
"""Longer clips, shorter evidence, two pieces of it, a picture: what separates methods better."""


def clip_rng(config: ToyWorldConfig, index: int) -> np.random.Generator:
    """The random stream of clip ``index``."""
    return np.random.default_rng(np.random.SeedSequence([config.seed, index]))


def draw_signs(rng: np.random.Generator, config: ToyWorldConfig) -> tuple[Sign, ...]:
    """Signs of distinct colours in disjoint runs of one or two pairs, in order of time.

    A clip shorter than the clock starts at a random second. The signs of pictures come last.
    """
    start = int(rng.integers(0, config.clock_seconds - config.video_pairs + 1))
    spare = config.video_pairs - config.num_signs
    twice = (rng.random(config.num_signs) < 0.5) & (config.longest_sign == 2)
    lengths = 1 + (twice & (np.cumsum(twice) <= spare))
    # Spread the pairs that show no sign over the gaps before, between and after the runs.
    spare = config.video_pairs - int(lengths.sum())
    gaps = rng.multinomial(spare, np.full(config.num_signs + 1, 1.0 / (config.num_signs + 1)))
    first_pairs = np.cumsum(gaps[:-1]) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    colours = rng.permutation(list(COLOURS))
    signs = [
        _draw_sign(
            rng, config, colour, config.num_pictures + first_pair, length, start + first_pair
        )
        for colour, length, first_pair in zip(colours, lengths, first_pairs, strict=False)
    ]
    for picture, colour in enumerate(colours[config.num_signs :][: config.num_pictures]):
        clock = rng.integers(config.clock_seconds)
        signs.append(replace(_draw_sign(rng, config, colour, picture, 1, clock), still=True))
    return tuple(signs)


def _draw_sign(
    rng: np.random.Generator,
    config: ToyWorldConfig,
    colour: str,
    first_pair: int,
    length: int,
    clock: int,
) -> Sign:
    marks = list(rng.permutation(list(MARKS)))[:length]
    top, left = GRID * rng.integers(0, (config.size - SIGN) // GRID + 1, 2)
    return Sign(
        colour=str(colour),
        first_pair=int(first_pair),
        clock=int(clock),
        letter=str(rng.choice(list(LETTERS))),
        points=str(rng.choice(list(DIGITS))),
        marks="".join(marks),
        top=int(top),
        left=int(left),
    )


def _smooth_interpolation(size: int, knots: int) -> np.ndarray:
    """``[size, knots]`` cyclic linear interpolation, so that a rolled texture has no seam."""
    position = np.arange(size) * knots / size
    lower = np.floor(position).astype(int)
    weights = np.zeros((size, knots), np.float32)
    weights[np.arange(size), lower % knots] += 1.0 - (position - lower)
    weights[np.arange(size), (lower + 1) % knots] += position - lower
    return weights


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A grey, slightly tinted cyclic texture ``[size, size, 3]`` in about 60..190."""
    grey = np.zeros((size, size), np.float32)
    for knots, amplitude in ((4, 40.0), (14, 22.0), (size // 4, 14.0)):
        spread = _smooth_interpolation(size, knots)
        grey += amplitude * (
            spread @ rng.uniform(-1, 1, (knots, knots)).astype(np.float32) @ spread.T
        )
    tint = rng.uniform(-12, 12, 3).astype(np.float32)
    return (125.0 + grey[..., None] + tint).astype(np.uint8)


def _draw_box(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    """Corner, extent, speed (pixels a frame) and muted colour of a distracting box."""
    colour = rng.uniform(50, 200, 3)
    muted = 0.35 * colour + 0.65 * colour.mean()
    return rng.integers(0, size, 2), rng.integers(10, 30, 2), rng.integers(-3, 4, 2), muted


def render(rng: np.random.Generator, signs: tuple[Sign, ...], config: ToyWorldConfig) -> np.ndarray:
    """The frames, uint8 ``[num_frames, size, size, 3]``; pictures first, each of them twice."""
    size, num_frames = config.size, 2 * config.video_pairs
    textures = [_texture(rng, size), _texture(rng, size)]
    # Half of the clips have a scene cut.
    cut = int(rng.integers(1, num_frames)) if rng.random() < 0.5 else num_frames
    velocity = rng.integers(-2, 3, 2)
    boxes = [_draw_box(rng, size) for _ in range(3)]
    noise = rng.integers(0, 13, (2 * size, size, 3), dtype=np.uint8)
    shake = rng.integers(-1, 2, (num_frames, 2))
    frames = np.empty((config.num_frames, size, size, 3), np.uint8)
    video = frames[2 * config.num_pictures :]
    for t in range(num_frames):
        video[t] = np.roll(textures[int(t >= cut)], tuple(velocity * t), axis=(0, 1))
        for corner, extent, speed, colour in boxes:
            top, left = (corner + speed * t) % size
            video[t, top : top + extent[0], left : left + extent[1]] = colour
        for sign in signs:
            if (pair := config.num_pictures + t // 2) in sign.pairs:
                paint_sign(video[t], sign, pair - sign.first_pair, shake[t])
        # Values stay within 16..240 before the noise, so uint8 does not wrap.
        video[t] += noise[rng.integers(size) :][:size]
    for sign in signs:
        if sign.still:
            picture = _texture(rng, size)
            paint_sign(picture, sign, 0, np.zeros(2, int))
            picture += noise[rng.integers(size) :][:size]
            frames[2 * sign.first_pair : 2 * sign.first_pair + 2] = picture
    return frames


def frame_times(signs: tuple[Sign, ...], config: ToyWorldConfig) -> np.ndarray:
    """Seconds of each frame by the signs' clock, 0 of a picture: float64 [num_frames]."""
    start = signs[0].clock - signs[0].first_pair + config.num_pictures
    of_video = start + np.arange(2 * config.video_pairs) / FRAMES_PER_SECOND
    return np.concatenate([np.zeros(2 * config.num_pictures), of_video])
