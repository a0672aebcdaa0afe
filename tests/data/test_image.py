"""Images: upright, in RGB, and never more than can be held."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from resadapt_jax.data import image
from resadapt_jax.data.row import RowError

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def encoded(pixels, format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG of which there is nothing but the header."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + content
        + struct.pack(">I", zlib.crc32(content)) + struct.pack(">I", 0) + b"IDAT"
    )  # fmt: skip


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_pixels_come_as_they_were_written(tmp_path, format):
    path = tmp_path / "image"
    path.write_bytes(encoded(PIXELS, format))
    for source in (path, path.read_bytes()):
        assert image.image_size(source) == (4, 6)
        np.testing.assert_array_equal(image.read_image(source), PIXELS)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_about_as_they_were(format):
    flat = np.full((16, 16, 3), 100, np.uint8)
    assert np.all(np.abs(image.read_image(encoded(flat, format)).astype(int) - 100) < 6)


# EXIF's orientations as what they do to the stored array to set it upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_orientation_in_exif_data_is_honoured(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PIXELS, format, exif=exif)
    expected = UPRIGHT[orientation](PIXELS)
    assert image.image_size(data) == expected.shape[:2]
    np.testing.assert_array_equal(image.read_image(data), expected)


def test_what_is_transparent_lies_on_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 255, 51  # 51 of 255: a fifth black, four fifths white
    np.testing.assert_array_equal(image.read_image(encoded(pixels))[0, :, 0], [255, 0, 204])


def test_sixteen_bits_are_scaled_and_not_clipped():
    grey = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    np.testing.assert_array_equal(image.read_image(encoded(grey))[0, :, 1], [0, 0, 1, 0x80, 0xFF])


def test_sixteen_bits_under_another_name_are_scaled_too():
    data = b"P5 3 1 65535\n" + bytes([0, 255, 1, 0, 255, 255])  # 255, 256 and 65535
    np.testing.assert_array_equal(image.read_image(data)[0, :, 1], [0, 1, 255])
    wide = np.array([[0, 256, 65535]], np.int32)
    np.testing.assert_array_equal(image.read_image(encoded(wide, "TIFF"))[0, :, 1], [0, 1, 255])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.int32(2**16), "more than 16 bits"),
        (np.int32(-1), "more than 16 bits"),
        (np.float32(0.5), "fractions"),
    ],
)
def test_values_of_no_scale_that_is_known_are_refused(value, reason):
    with pytest.raises(RowError, match=reason):
        image.read_image(encoded(np.full((2, 2), value), "TIFF"))


def test_a_palette_and_grey_become_rgb():
    grey = np.array([[0, 90, 255]], np.uint8)
    np.testing.assert_array_equal(image.read_image(encoded(grey))[0, :, 2], grey[0])
    file = io.BytesIO()
    Image.fromarray(grey).convert("P").save(file, "PNG")
    np.testing.assert_array_equal(image.read_image(file.getvalue())[0, :, 2], grey[0])


@pytest.mark.parametrize("width", [9000, 60000])  # above our limit, above Pillow's own
def test_an_image_bomb_is_refused_by_its_header(width, recwarn):
    data = png_header(width, width)
    for read in (image.image_size, image.read_image):
        with pytest.raises(RowError, match="too many pixels"):
            read(data)


def test_a_header_alone_tells_the_size():
    assert image.image_size(png_header(8000, 8000)) == (8000, 8000)


def test_damage_is_a_reason(tmp_path):
    data = encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    path = tmp_path / "cut.png"
    path.write_bytes(data[: len(data) // 2])
    assert image.image_size(path) == (64, 64)
    with pytest.raises(RowError, match=f"unreadable image: {path}"):
        image.read_image(path)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_a_reason(data):
    with pytest.raises(RowError, match="unreadable image: the row's bytes: of no format"):
        image.image_size(data)
