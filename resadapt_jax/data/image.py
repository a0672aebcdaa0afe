"""Images: their size from the header, their pixels upright and in RGB."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from resadapt_jax.data.row import RowError

REFUSED_ABOVE_PIXELS = 2**26
"""Images above this are refused before anything of them is decoded."""

# Among the others are some that run programs (EPS) or fetch other files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)
"""Of files in these formats."""

Image.init()  # else only the commonest formats are known

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def image_size(source: Path | bytes) -> tuple[int, int]:
    """Upright height and width, by the header alone.

    Raises:
        RowError: not an image of a known format, or more pixels than REFUSED_ABOVE_PIXELS.
    """
    with _opened(source) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_image(source: Path | bytes) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels, turned as the EXIF data say; what is transparent lies on white.

    Of an animation it is the first frame.

    Raises:
        RowError: as `image_size`, or the image is damaged or cut short.
    """
    with _opened(source) as image:
        turn = _UPRIGHT.get(_orientation(image))
        image.load()
        pixels = _rgb(image)
        return np.asarray(pixels if turn is None else pixels.transpose(turn))


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """An image whose header was read; whatever the decoder raises becomes a reason."""
    name = "the row's bytes" if isinstance(source, bytes) else str(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > REFUSED_ABOVE_PIXELS:
                raise RowError("too many pixels", f"{name}: {width} x {height}")
            yield image
    except RowError:
        raise
    except Image.DecompressionBombError as error:
        raise RowError("too many pixels", f"{name}: {error}") from error
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise RowError("unreadable image", f"{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "of no format that is read (" + ", ".join(FORMATS) + ")"
    return str(error) or type(error).__name__


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # which Pillow turns by itself
        return 1
    # Asking a PNG without EXIF data in its header for them would decode all of it.
    known = image.format != "PNG" or "exif" in image.info
    return int(image.getexif().get(_ORIENTATION, 1)) if known else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would clip to 8 bits, not scale
        return _from_sixteen_bits(np.asarray(image))
    if image.mode == "F":
        raise RowError("unreadable image", "its pixels are fractions, of no scale that is known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_sixteen_bits(values: Int[np.ndarray, "height width"]) -> Image.Image:
    """The upper of two bytes; Pillow has no other name for 16 bits of grey than for 32."""
    if values.min() < 0 or values.max() >= 2**16:
        raise RowError("unreadable image", "its pixels have more than 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
