"""The embedded world's signs: what is printed on them, and how they are painted."""

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
BORDER = 5
PANEL = 18
SIGN = PANEL + 2 * BORDER  # 28 pixels

# Strokes one pixel wide. 5 x 7 bitmaps, a row per number, most significant bit on the left.
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
    # As many dark pixels as the plus: only the shape tells them apart.
    "x": (0, 17, 10, 4, 10, 17, 0),
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


@dataclass(frozen=True)
class Sign:
    """One sign: it went up at second ``clock``, and in its ``i``-th pair it shows ``marks[i]``.

    On a still picture (``still``) nothing goes up, whatever is printed.
    """

    colour: str
    first_pair: int
    clock: int
    letter: str
    points: str
    marks: str
    top: int
    left: int
    still: bool = False

    @property
    def pairs(self) -> range:
        return range(self.first_pair, self.first_pair + len(self.marks))


def paint_sign(canvas: np.ndarray, sign: Sign, pair: int, shake: np.ndarray) -> None:
    """Draws a sign as it is in its ``pair``-th pair, about its place on the grid."""
    top, left = np.clip(np.array([sign.top, sign.left]) + shake, 0, canvas.shape[0] - SIGN)
    patch = canvas[top : top + SIGN, left : left + SIGN]
    patch[:] = COLOURS[sign.colour]
    patch[BORDER:-BORDER, BORDER:-BORDER] = 236
    for glyph, row, col in ((sign.letter, 6, 7), (sign.points, 6, 16), (sign.marks[pair], 15, 7)):
        patch[row : row + 7, col : col + 5][GLYPHS[glyph]] = 16
    for digit, col in zip(f"{sign.clock:02d}", (15, 19), strict=True):
        patch[16:21, col : col + 3][CLOCK_GLYPHS[digit]] = 16
