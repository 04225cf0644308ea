"""An image file -> an upright picture with 8 bits per channel, and its pixels in the shape of a sample.

The picture is what an image viewer shows on a white page: rotated by the EXIF orientation, transparent parts white, 12
and 16 bits scaled to 8. Ambiguous files are refused. Imports no torch: processes that decode start without it.
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dlcli.core.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

MOST_BYTES = 300_000_000  # some formats must be read completely before their size in pixels is known

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_MOST_PIXELS = 64_000_000
_UNHEARD = logging.NullHandler()  # without a handler, Python prints what Pillow logs about a damaged file

# A picture is first reduced quickly, to no less than this many times the size that is wanted, and then resized well.
_GAP = 2


class Fit(NamedTuple):
    """The pixels that are made of a picture: channels 1 (grey) or 3, height and width.

    crop: `centre` scales the picture until it covers height and width, and cuts off what stands out on both sides;
    `stretch` makes it fit, whatever becomes of its proportions. interpolation: `bilinear` or `bicubic`, over all
    pixels that become one.
    """

    channels: int
    height: int
    width: int
    crop: str
    interpolation: str = "bilinear"


@contextlib.contextmanager
def opened(file: Path | io.BytesIO, name: str | Path) -> Iterator[Image.Image]:
    """The image in a file, not decoded yet. What goes wrong with it inside the block is a DataError (exit 3) that
    begins with `name`."""
    logging.getLogger("PIL").addHandler(_UNHEARD)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about a file that can be decoded
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            size = os.stat(file).st_size if isinstance(file, Path) else file.getbuffer().nbytes
            if size > MOST_BYTES:
                raise DataError(f"{name} has more than {MOST_BYTES:,} bytes: make it smaller")
            with Image.open(file, formats=_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{name} has more than {_MOST_PIXELS:,} pixels: make it smaller") from None
    except UnidentifiedImageError:
        raise DataError(f"{name} is no image in one of the formats {', '.join(_FORMATS)}") from None
    except Exception as error:  # on damaged files decoders also raise exceptions that they do not document
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{name} cannot be read: {error.strerror}") from None
        raise DataError(f"{name} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from None


def stretched(image: Image.Image, name: str | Path, channels: int, height: int, width: int) -> Image.Image:
    """The picture in grey or colour, stretched to this size; DataError for an animation."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with smaller copies of the image
        raise DataError(f"{name} has {frames} frames: save one of them as an image of its own")
    _refuse_ambiguity(image, name)
    return _shown(image).convert(_mode(channels)).resize((width, height))


def fitted(image: Image.Image, name: str | Path, fit: Fit) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 pixels (height, width, channels). Of an animation the first frame; DataError for a TIFF of many pages."""
    if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
        raise DataError(f"{name} has {pages} pages: save each as an image of its own")
    _refuse_ambiguity(image, name)
    if image.format == "JPEG":
        least = _GAP * max(fit.height, fit.width)
        image.draft(image.mode, (least, least))  # decodes a large photograph at 1/2, 1/4 or 1/8 of its size
    picture = _converted(_shown(image), _mode(fit.channels))
    box = None if fit.crop == "stretch" else _covered(picture, fit)
    size = (fit.width, fit.height)
    pixels = np.asarray(picture.resize(size, Image.Resampling[fit.interpolation.upper()], box=box, reducing_gap=_GAP))
    return pixels.reshape(fit.height, fit.width, fit.channels)


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Height and width as a viewer shows them."""
    lies = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if lies else (image.height, image.width)


def is_grey(image: Image.Image) -> bool:
    """Whether its pixels are stored without colour."""
    return image.mode[0] in "1LI" and image.mode != "LAB"


def _converted(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _mode(channels: int) -> str:
    return "L" if channels == 1 else "RGB"


def _covered(picture: Image.Image, fit: Fit) -> tuple[float, float, float, float]:
    """The part in the centre of the picture, as large as possible, that has the proportions of the fit."""
    scale = min(picture.width / fit.width, picture.height / fit.height)
    width, height = min(scale * fit.width, picture.width), min(scale * fit.height, picture.height)
    left, top = (picture.width - width) / 2, (picture.height - height) / 2
    return left, top, min(left + width, picture.width), min(top + height, picture.height)


def _refuse_ambiguity(image: Image.Image, name: str | Path) -> None:
    signed = image.format == "TIFF" and 2 in tuple(_tag(image, _SAMPLE_FORMAT, (1,)))
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG") or signed:
        raise DataError(
            f"{name} has signed or 32-bit pixels, for which white is not defined: save it with 8 or 16 bits"
        )
    if _raw_mode(image) == "RGB;16B" and "transparency" in image.info:  # Pillow compares only 8 of the 16 bits
        raise DataError(f"{name} marks a colour of 48 bits as transparent: save it with an alpha channel")


def _shown(image: Image.Image) -> Image.Image:
    """The image upright, with 8 bits per channel, on a white background."""
    raw_mode, inverted = _raw_mode(image), image.format == "TIFF" and _tag(image, _PHOTOMETRIC, 1) == _MIN_IS_WHITE
    if raw_mode in ("L;2", "L;4") and "transparency" in image.info:  # a grey PNG: not yet scaled to 8 bits
        image.info["transparency"] *= 85 if raw_mode == "L;2" else 17
    if image.getexif().get(_ORIENTATION, 1) != 1:  # without it, exif_transpose would make a copy
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _grey_of_16_bits(image, most=4095 if raw_mode == "I;12" else 65535, inverted=inverted)
    if image.mode == "LAB":  # which Pillow converts only to RGB
        return image.convert("RGB")
    if image.mode == "La":  # grey multiplied by opacity, which Pillow converts only to LA
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _grey_of_16_bits(image: Image.Image, *, most: int, inverted: bool) -> Image.Image:
    """The image scaled to 8 bits; `convert` would clip. most: the largest value. inverted: whether that is black."""
    values = np.asarray(image.convert("I"), dtype=np.float64)
    grey = ((most - values if inverted else values) * 255 / most).round().clip(0, 255)
    grey[values == image.info.get("transparency")] = 255
    return Image.fromarray(grey.astype(np.uint8))


_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339  # tags of a TIFF
_ORIENTATION = 274  # tag of EXIF
_MIN_IS_WHITE = 0  # in grey images; Pillow inverts those of up to 8 bits itself


def _tag(image: Any, number: int, default: Any) -> Any:
    return image.tag_v2.get(number, default)


def _raw_mode(image: Any) -> str:
    """Pillow's name for the pixel format of the file; empty if it is not known before decoding."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)
