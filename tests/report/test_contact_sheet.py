"""The contact sheet draws every pair at the size it was given."""

import numpy as np
import pytest
from PIL import ImageColor

from resadapt_jax.report import contact_sheet as sheets
from resadapt_jax.report.contact_sheet import Tile, contact_sheet

RANGE = (0.2, 1.8)


def tile(colour, scale, height, width, native=(112, 140)):
    frame = np.empty((*native, 3), np.uint8)
    frame[:] = colour
    return Tile(
        frame=frame, seconds=1.0, scale=scale, height=height, width=width, tokens=height * width
    )


def extent(sheet, colour) -> tuple[int, int]:
    """Height and width of what has a colour in the sheet."""
    rows, columns = np.nonzero(np.all(np.asarray(sheet) == colour, axis=-1))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def draw(tiles, title="when?", subtitle="clip.mkv"):
    return contact_sheet(tiles, title=title, subtitle=subtitle, scale_range=RANGE)


def test_pictures_keep_the_proportions_of_their_sizes():
    red, blue, green = (255, 0, 0), (0, 0, 255), (0, 255, 0)
    sheet = draw([tile(red, 1.0, 112, 140), tile(blue, 0.5, 56, 84), tile(green, 1.5, 168, 224)])
    # The largest box is 168 x 224; all share its zoom.
    zoom = (sheets.CELL_AREA / (168 * 224)) ** 0.5
    for colour, size in ((red, (112, 140)), (blue, (56, 84)), (green, (168, 224))):
        np.testing.assert_allclose(extent(sheet, colour), np.multiply(size, zoom), atol=1.0)


def test_the_border_tells_the_scale():
    grey = (90, 90, 90)
    low, middle, high = (
        np.asarray(draw([tile(grey, scale, 112, 140)])) for scale in (0.2, 1.0, 1.8)
    )
    rows, columns = np.nonzero(np.all(low == grey, axis=-1))
    above = (rows.min() - 1, columns.min() + 20)
    colours = [tuple(int(v) for v in sheet[above]) for sheet in (low, middle, high)]
    assert len(set(colours)) == 3
    assert not set(colours) & {grey, ImageColor.getrgb(sheets.BACKGROUND)}
    # The colours at the ends of the range are the ends of the legend's bar.
    legend = low[-sheets.MARGIN - sheets.LEGEND_HEIGHT + 20]
    assert tuple(legend[sheets.MARGIN]) == colours[0]
    assert tuple(legend[sheets.MARGIN + 259]) == colours[2]


def test_a_small_picture_stands_on_the_box_of_its_native_size():
    sheet = draw([tile((255, 0, 0), 0.5, 56, 56)])
    # Only the box of the picture and the swatch in the legend are drawn in this colour.
    above_legend = sheet.crop(
        (0, 0, sheet.width, sheet.height - sheets.LEGEND_HEIGHT - sheets.MARGIN)
    )
    height, width = extent(above_legend, ImageColor.getrgb(sheets.GHOST))
    assert height / width == pytest.approx(112 / 140, abs=0.02)
    assert height > 1.9 * extent(sheet, (255, 0, 0))[0]


@pytest.mark.parametrize("count", [1, 5, 16, 64])
@pytest.mark.parametrize("native", [(112, 140), (560, 308)])
def test_any_number_of_pairs_fits(count, native):
    colours = [(30 + 3 * i, 70, 220 - 2 * i) for i in range(count)]
    sheet = draw([tile(colour, 1.0, *native, native=native) for colour in colours])
    assert 0.3 < sheet.width / sheet.height < 3.0
    # Every picture is there, whole: as many pixels as the cell's area, but for rounded sides.
    seen = {colour: number for number, colour in sheet.getcolors(maxcolors=sheet.width * 999)}
    for colour in colours:
        assert seen[colour] == pytest.approx(sheets.CELL_AREA, rel=0.01)


def test_long_texts_stay_inside():
    title = " ".join(["a question that goes on and on"] * 40)
    sheet = np.asarray(draw([tile((9, 9, 9), 1.0, 112, 140)], title, subtitle="x" * 500))
    background = np.array(ImageColor.getrgb(sheets.BACKGROUND))
    assert np.all(sheet[:, -sheets.MARGIN + 4 :] == background)


def test_scales_outside_the_range_have_colours():
    draw([tile((9, 9, 9), 0.05, 56, 56), tile((9, 9, 9), 2.5, 112, 140)])
