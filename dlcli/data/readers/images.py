"""An image file -> the pixels that a model expects.

The model gets what an image viewer shows on a white page: rotated by the EXIF orientation, transparent parts white, 12
and 16 bits scaled to 8; then converted to grey or colour and resized. Ambiguous files are refused.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dlcli.core.errors import ConfigError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_MOST_PIXELS = 64_000_000
_MOST_BYTES = 300_000_000  # some formats must be read completely before their size in pixels is known
_UNHEARD = logging.NullHandler()  # without a handler, Python prints what Pillow logs about a damaged file


def read_image(path: Path, shape: tuple[int, ...], *, white: float = 255.0) -> Tensor:
    """Raw float32 values of `shape` (C, H, W), from 0 to `white`. DataError (exit 3) if the file cannot be used."""
    channels, height, width = shape
    if channels not in (1, 3):
        raise ConfigError(f"the model expects images with {channels} channels, which no image file has")
    logging.getLogger("PIL").addHandler(_UNHEARD)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about a file that can be decoded
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if path.stat().st_size > _MOST_BYTES:
                raise DataError(f"{path} has more than {_MOST_BYTES:,} bytes: make it smaller")
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise Image.DecompressionBombError
                _refuse_ambiguity(image, path)
                picture = _shown(image).convert("L" if channels == 1 else "RGB").resize((width, height))
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{path} has more than {_MOST_PIXELS:,} pixels: make it smaller") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is no image in one of the formats {', '.join(_FORMATS)}") from None
    except Exception as error:  # on damaged files decoders also raise exceptions that they do not document
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        raise DataError(f"{path} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from None
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32)).view(height, width, channels)
    return pixels.permute(2, 0, 1) * (white / 255)


def _refuse_ambiguity(image: Image.Image, path: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with smaller copies of the image
        raise DataError(f"{path} has {frames} frames: save one of them as an image of its own")
    signed = image.format == "TIFF" and 2 in tuple(_tag(image, _SAMPLE_FORMAT, (1,)))
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG") or signed:
        raise DataError(
            f"{path} has signed or 32-bit pixels, for which white is not defined: save it with 8 or 16 bits"
        )
    if _raw_mode(image) == "RGB;16B" and "transparency" in image.info:  # Pillow compares only 8 of the 16 bits
        raise DataError(f"{path} marks a colour of 48 bits as transparent: save it with an alpha channel")


def _shown(image: Image.Image) -> Image.Image:
    """The image upright, with 8 bits per channel, on a white background."""
    raw_mode, inverted = _raw_mode(image), image.format == "TIFF" and _tag(image, _PHOTOMETRIC, 1) == _MIN_IS_WHITE
    if raw_mode in ("L;2", "L;4") and "transparency" in image.info:  # a grey PNG: not yet scaled to 8 bits
        image.info["transparency"] *= 85 if raw_mode == "L;2" else 17
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
_MIN_IS_WHITE = 0  # in grey images; Pillow inverts those of up to 8 bits itself


def _tag(image: Any, number: int, default: Any) -> Any:
    return image.tag_v2.get(number, default)


def _raw_mode(image: Any) -> str:
    """Pillow's name for the pixel format of the file; empty if it is not known before decoding."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)
