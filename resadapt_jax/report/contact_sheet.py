"""One picture of an allocation: every pair at the size it was given, framed by its scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

BACKGROUND, GHOST, FAINT, TEXT = "#14161a", "#23272e", "#8b93a1", "#f2f4f8"
COLOURS = "plasma"
MARGIN, GAP, BORDER = 28, 18, 4
LABEL_HEIGHT, LEGEND_HEIGHT, LINE_HEIGHT = 42, 58, 30
CELL_AREA, MIN_CELL_WIDTH, MIN_SHEET_WIDTH = 230 * 150, 156, 680
SHEET_ASPECT = 1.5


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One temporal pair of an allocation.

    Attributes:
        frame: the picture that stands for the pair, at native size.
        seconds: mean time of its frames.
        scale: linear scale, which colours the border.
        height, width: size it was given, in pixels.
        tokens: visual tokens it costs.
    """

    frame: UInt8[np.ndarray, "height width 3"]
    seconds: float
    scale: float
    height: int
    width: int
    tokens: int


def contact_sheet(
    tiles: Sequence[Tile], *, title: str, subtitle: str, scale_range: tuple[float, float]
) -> Image.Image:
    """Draw the pairs of an allocation side by side, all to one measure.

    Each pair is resized to the size it was given, so the detail it lost is lost in the picture,
    and stands on a grey box of the size it has at scale 1.

    Args:
        tiles: in time order, at least one.
        title: the query, say; broken into lines where it must be.
        subtitle: one line below it.
        scale_range: scales at the two ends of the colours; widened to hold every tile's.
    """
    scales = [tile.scale for tile in tiles]
    low, high = min(scale_range[0], *scales), max(scale_range[1], *scales)
    box_height = max(max(tile.height, tile.frame.shape[0]) for tile in tiles)
    box_width = max(max(tile.width, tile.frame.shape[1]) for tile in tiles)
    zoom = math.sqrt(CELL_AREA / (box_height * box_width))
    cell = _Cell(
        width=max(round(box_width * zoom) + 2 * BORDER, MIN_CELL_WIDTH),
        height=round(box_height * zoom) + 2 * BORDER,
        zoom=zoom,
    )
    columns = _columns(len(tiles), cell)
    rows = -(-len(tiles) // columns)
    width = max(2 * MARGIN + columns * (cell.width + GAP) - GAP, MIN_SHEET_WIDTH)
    lines = _wrap(title, _font(22, bold=True), width - 2 * MARGIN)
    top = MARGIN + len(lines) * LINE_HEIGHT + LINE_HEIGHT + GAP
    height = top + rows * (cell.height + LABEL_HEIGHT + GAP) + LEGEND_HEIGHT + MARGIN

    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _draw_header(draw, lines, subtitle, width - 2 * MARGIN)
    left = (width - columns * (cell.width + GAP) + GAP) // 2
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        corner = (
            left + column * (cell.width + GAP),
            top + row * (cell.height + LABEL_HEIGHT + GAP),
        )
        _draw_tile(sheet, draw, tile, corner, cell, _colour(tile.scale, low, high))
    _draw_legend(draw, width, height - MARGIN - LEGEND_HEIGHT, low, high)
    return sheet


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """Room for one picture, in pixels of the sheet, and sheet pixels per pixel of video."""

    width: int
    height: int
    zoom: float


def _columns(count: int, cell: _Cell) -> int:
    """Columns that bring the sheet near its aspect and leave no more rows than needed."""
    ideal = math.sqrt(count * SHEET_ASPECT * (cell.height + LABEL_HEIGHT + GAP) / cell.width)
    columns = min(max(round(ideal), 1), count)
    return -(-count // -(-count // columns))


def _draw_header(draw: ImageDraw.ImageDraw, lines: list[str], subtitle: str, width: int) -> None:
    y = MARGIN
    for line in lines:
        draw.text((MARGIN, y), line, TEXT, _font(22, bold=True))
        y += LINE_HEIGHT
    draw.text((MARGIN, y), _shorten(subtitle, _font(15), width), FAINT, _font(15))


def _draw_tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    tile: Tile,
    corner: tuple[int, int],
    cell: _Cell,
    colour: str,
) -> None:
    x, y = corner
    centre_x, centre_y = x + cell.width / 2, y + cell.height / 2
    draw.rectangle(_around(centre_x, centre_y, *tile.frame.shape[1::-1], cell.zoom), GHOST)
    left, top, right, bottom = _around(centre_x, centre_y, tile.width, tile.height, cell.zoom)
    border = (left - BORDER, top - BORDER, right + BORDER, bottom + BORDER)
    draw.rectangle(border, colour)
    picture = Image.fromarray(tile.frame).resize(
        (tile.width, tile.height), Image.Resampling.BICUBIC
    )
    shown = (right - left + 1, bottom - top + 1)
    sheet.paste(picture.resize(shown, Image.Resampling.LANCZOS), (left, top))
    y += cell.height + 5
    draw.text((x, y), f"{tile.seconds:.1f} s", TEXT, _font(15, bold=True))
    draw.text((x + cell.width, y), f"×{tile.scale:.2f}", TEXT, _font(15, bold=True), anchor="ra")
    draw.text((x, y + 20), f"{tile.width}×{tile.height}", FAINT, _font(13))
    noun = "token" if tile.tokens == 1 else "tokens"
    label = f"{tile.tokens} {noun}"
    draw.text((x + cell.width, y + 20), label, FAINT, _font(13), anchor="ra")


def _around(x: float, y: float, width: int, height: int, zoom: float) -> tuple[int, int, int, int]:
    """Corners, both inclusive, of a rectangle of video pixels centred on a point of the sheet."""
    width, height = max(round(width * zoom), 1), max(round(height * zoom), 1)
    left, top = round(x - width / 2), round(y - height / 2)
    return left, top, left + width - 1, top + height - 1


def _draw_legend(draw: ImageDraw.ImageDraw, width: int, y: int, low: float, high: float) -> None:
    bar = 260
    for i in range(bar):
        draw.line((MARGIN + i, y + 14, MARGIN + i, y + 26), _colour(i / (bar - 1), 0.0, 1.0))
    for position, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        label = f"×{low + position * (high - low):.2g}"
        draw.text((MARGIN + position * bar, y + 32), label, FAINT, _font(13), anchor=anchor)
    draw.text((MARGIN + bar + 16, y + 12), "border: linear scale", FAINT, _font(13))
    right = width - MARGIN
    note = "size at scale 1"
    note_width = _font(13).getlength(note)
    draw.rectangle((right - note_width - 34, y + 12, right - note_width - 10, y + 28), GHOST)
    draw.text((right, y + 12), note, FAINT, _font(13), anchor="ra")


def _colour(scale: float, low: float, high: float) -> str:
    position = (scale - low) / (high - low) if high > low else 1.0
    # The darkest colours of the map would sink into the background.
    return matplotlib.colors.to_hex(matplotlib.colormaps[COLOURS](0.2 + 0.8 * position))


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break text between words into lines no wider than `width`; at most three."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > 3:
        lines = [*lines[:2], " ".join(lines[2:])]
    return [_shorten(line, font, width) for line in lines]


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and so is on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)
