"""The embedded world: short clips in which the answer is written small, somewhere, for a moment.

A clip shows a drifting grey texture with muted moving boxes. Four signs appear one after another,
each for one or two temporal pairs. A sign's coloured border survives any thumbnail; what is
printed inside (a letter, a number of points, the second at which the sign went up, and a mark that
nobody asks about) has strokes one pixel wide and is legible only near full resolution. A question
names one colour, so the other signs carry wrong answers.

============  =======================================  ==============  ==================
task          question                                 answer          graded as
============  =======================================  ==============  ==================
``which``     Which letter is on the red sign?         ``C``           multiple choice
``how_many``  How many points is the red sign worth?   ``7``           numerical
``when``      When did the red sign go up?             ``4.0 to 5.0``  temporal grounding
============  =======================================  ==============  ==================

Everything is a function of ``(config.seed, index)``: the same pair gives the same clip anywhere.
"""

from dataclasses import dataclass

import numpy as np

COLOURS = {
    "red": (228, 38, 38),
    "green": (36, 196, 60),
    "blue": (44, 76, 236),
    "yellow": (236, 214, 36),
    "purple": (172, 44, 214),
    "cyan": (36, 212, 216),
}
LETTERS = "ABCDEFGH"
DIGITS = "123456789"
MARKS = "+x"
TASKS = ("which", "how_many", "when")
PROBLEM_TYPES = {
    "which": "multiple choice",
    "how_many": "numerical",
    "when": "temporal grounding",
}
"""How an answer to a question of a task is graded (`rewards.TaskType`)."""

# 5 x 7 bitmaps, a row per number, most significant bit on the left.
_GLYPH_ROWS = {
    "A": (14, 17, 17, 31, 17, 17, 17),
    "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "D": (28, 18, 17, 17, 17, 18, 28),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16),
    "G": (14, 17, 16, 23, 17, 17, 15),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
    "+": (0, 4, 4, 31, 4, 4, 0),
    "x": (
        0,
        17,
        10,
        4,
        10,
        17,
        0,
    ),  # as many dark pixels as the plus: only the shape tells them apart
}
GLYPHS = {
    name: np.array([[row >> (4 - col) & 1 for col in range(5)] for row in rows], bool)
    for name, rows in _GLYPH_ROWS.items()
}
_CLOCK_ROWS = {
    "0": (7, 5, 5, 5, 7),
    "1": (2, 6, 2, 2, 7),
    "2": (7, 1, 7, 4, 7),
    "3": (7, 1, 3, 1, 7),
    "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7),
    "6": (7, 4, 7, 5, 7),
    "7": (7, 1, 1, 2, 2),
    "8": (7, 5, 7, 5, 7),
    "9": (7, 5, 7, 1, 7),
}
CLOCK_GLYPHS = {
    digit: np.array([[row >> (2 - col) & 1 for col in range(3)] for row in rows], bool)
    for digit, rows in _CLOCK_ROWS.items()
}
CLOCK_SECONDS = 12  # a clip lies within the first so many seconds, a longer one has a longer clock
LONGEST_CLOCK = 100  # two digits
FRAMES_PER_SECOND = 2.0
BORDER = 5
PANEL = 18
SIGN = PANEL + 2 * BORDER  # 28 pixels
GRID = (
    14  # signs hang on a grid, give or take a pixel, so that few clips teach a tiny model to read
)


@dataclass(frozen=True, kw_only=True)
class ToyWorldConfig:
    """What the embedded world looks like."""

    seed: int = 0
    """Clips are a function of this seed and their index."""
    num_pairs: int = 12
    """Temporal pairs of a clip; two frames each."""
    size: int = 112
    """Frame height and width in pixels."""
    num_signs: int = 4
    """Signs of a clip, each of its own colour."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_signs <= min(self.num_pairs, len(COLOURS)):
            raise ValueError(
                f"{self.num_signs} signs do not fit in {self.num_pairs} pairs"
                f" and {len(COLOURS)} colours"
            )
        if self.size < SIGN + 16:
            raise ValueError(f"frames of {self.size} pixels are too small for signs of {SIGN}")

        if self.num_pairs > LONGEST_CLOCK:
            raise ValueError(f"{self.num_pairs} pairs do not fit on a clock of {LONGEST_CLOCK} s")

    @property
    def num_frames(self) -> int:
        return 2 * self.num_pairs

    @property
    def native_sizes(self) -> tuple[tuple[int, int]]:
        """Height and width of every frame."""
        return ((self.size, self.size),)

    @property
    def clock_seconds(self) -> int:
        """Seconds that the clock can show."""
        return max(CLOCK_SECONDS, self.num_pairs)


@dataclass(frozen=True)
class Sign:
    """One sign: it went up at second ``clock``, and in its ``i``-th pair it shows ``marks[i]``."""

    colour: str
    first_pair: int
    clock: int
    letter: str
    points: str
    marks: str
    top: int
    left: int

    @property
    def pairs(self) -> range:
        return range(self.first_pair, self.first_pair + len(self.marks))


@dataclass(frozen=True)
class Question:
    """A question, its reference answer, and the pairs that show it (for plots and oracles)."""

    task: str
    colour: str
    text: str
    answer: str
    evidence: tuple[int, ...]

    @property
    def reply(self) -> str:
        """What a backbone is taught to say: it names the sign, then answers."""
        return f" {self.colour} {self.answer}"


def clip_rng(config: ToyWorldConfig, index: int) -> np.random.Generator:
    """The random stream of clip ``index``."""
    return np.random.default_rng(np.random.SeedSequence([config.seed, index]))


def draw_signs(rng: np.random.Generator, config: ToyWorldConfig) -> tuple[Sign, ...]:
    """Signs of distinct colours in disjoint runs of one or two pairs, in order of time.

    A clip shorter than the clock starts at a random second.
    """
    start = int(rng.integers(0, config.clock_seconds - config.num_pairs + 1))
    spare = config.num_pairs - config.num_signs
    twice = rng.random(config.num_signs) < 0.5
    lengths = 1 + (twice & (np.cumsum(twice) <= spare))
    # Spread the pairs that show no sign over the gaps before, between and after the runs.
    spare = config.num_pairs - int(lengths.sum())
    gaps = rng.multinomial(spare, np.full(config.num_signs + 1, 1.0 / (config.num_signs + 1)))
    first_pairs = np.cumsum(gaps[:-1]) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    colours = rng.permutation(list(COLOURS))
    signs = []
    for colour, length, first_pair in zip(colours, lengths, first_pairs, strict=False):
        marks = list(rng.permutation(list(MARKS)))[:length]
        top, left = GRID * rng.integers(0, (config.size - SIGN) // GRID + 1, 2)
        signs.append(
            Sign(
                colour=str(colour),
                first_pair=int(first_pair),
                clock=start + int(first_pair),
                letter=str(rng.choice(list(LETTERS))),
                points=str(rng.choice(list(DIGITS))),
                marks="".join(marks),
                top=int(top),
                left=int(left),
            )
        )
    return tuple(signs)


def question_text(task: str, colour: str) -> str:
    """How the embedded world words a task about the sign of a colour."""
    if task == "which":
        return f"Which letter is on the {colour} sign?"
    if task == "how_many":
        return f"How many points is the {colour} sign worth?"
    if task == "when":
        return f"When did the {colour} sign go up?"
    raise ValueError(f"unknown task {task!r}; the embedded world has {', '.join(TASKS)}")


def ask(task: str, sign: Sign) -> Question:
    """The question of a task about one sign; the answer to ``when`` is its first pair."""
    answers = {
        "which": sign.letter,
        "how_many": sign.points,
        "when": f"{sign.clock:.1f} to {sign.clock + 1:.1f}",
    }
    text = question_text(task, sign.colour)
    return Question(task, sign.colour, text, answers[task], tuple(sign.pairs))


def possible_questions(signs: tuple[Sign, ...]) -> list[Question]:
    """Every question the clip answers."""
    return [ask(task, sign) for sign in signs for task in TASKS]


def draw_questions(rng: np.random.Generator, signs: tuple[Sign, ...], count: int) -> list[Question]:
    """Different questions, as far as there are; each time a task is drawn first, then a sign."""
    left = possible_questions(signs)
    drawn: list[Question] = []
    while left and len(drawn) < count:
        tasks = sorted({question.task for question in left})
        task = tasks[rng.integers(len(tasks))]
        eligible = [question for question in left if question.task == task]
        drawn.append(eligible[rng.integers(len(eligible))])
        left.remove(drawn[-1])
    return drawn


def draw_question(rng: np.random.Generator, signs: tuple[Sign, ...]) -> Question:
    """One question, each task and each sign equally likely."""
    return draw_questions(rng, signs, 1)[0]


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


def _paint_sign(canvas: np.ndarray, sign: Sign, pair: int, shake: np.ndarray) -> None:
    """Draws a sign as it is in its ``pair``-th pair, about its place on the grid."""
    top, left = np.clip(np.array([sign.top, sign.left]) + shake, 0, canvas.shape[0] - SIGN)
    patch = canvas[top : top + SIGN, left : left + SIGN]
    patch[:] = COLOURS[sign.colour]
    patch[BORDER:-BORDER, BORDER:-BORDER] = 236
    for glyph, row, col in ((sign.letter, 6, 7), (sign.points, 6, 16), (sign.marks[pair], 15, 7)):
        patch[row : row + 7, col : col + 5][GLYPHS[glyph]] = 16
    for digit, col in zip(f"{sign.clock:02d}", (15, 19), strict=True):
        patch[16:21, col : col + 3][CLOCK_GLYPHS[digit]] = 16


def _draw_box(rng: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    """Corner, extent, speed (pixels a frame) and muted colour of a distracting box."""
    colour = rng.uniform(50, 200, 3)
    muted = 0.35 * colour + 0.65 * colour.mean()
    return rng.integers(0, size, 2), rng.integers(10, 30, 2), rng.integers(-3, 4, 2), muted


def render(rng: np.random.Generator, signs: tuple[Sign, ...], config: ToyWorldConfig) -> np.ndarray:
    """The clip's frames, uint8 ``[num_frames, size, size, 3]``."""
    size, num_frames = config.size, config.num_frames
    textures = [_texture(rng, size), _texture(rng, size)]
    # Half of the clips have a scene cut.
    cut = int(rng.integers(1, num_frames)) if rng.random() < 0.5 else num_frames
    velocity = rng.integers(-2, 3, 2)
    boxes = [_draw_box(rng, size) for _ in range(3)]
    noise = rng.integers(0, 13, (2 * size, size, 3), dtype=np.uint8)
    shake = rng.integers(-1, 2, (num_frames, 2))
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for t in range(num_frames):
        frames[t] = np.roll(textures[int(t >= cut)], tuple(velocity * t), axis=(0, 1))
        for corner, extent, speed, colour in boxes:
            top, left = (corner + speed * t) % size
            frames[t, top : top + extent[0], left : left + extent[1]] = colour
        for sign in signs:
            if t // 2 in sign.pairs:
                _paint_sign(frames[t], sign, t // 2 - sign.first_pair, shake[t])
        # Values stay within 16..240 before the noise, so uint8 does not wrap.
        frames[t] += noise[rng.integers(size) :][:size]
    return frames


def frame_times(signs: tuple[Sign, ...], config: ToyWorldConfig) -> np.ndarray:
    """Seconds of each frame by the signs' clock: float64 [num_frames]."""
    start = signs[0].clock - signs[0].first_pair
    return start + np.arange(config.num_frames) / FRAMES_PER_SECOND
