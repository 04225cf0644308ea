"""An image file -> the pixels that a model takes.

The model gets what a viewer shows on a white page: upright as the camera noted it, transparent parts white, 12 and 16
bits scaled to 8; then grey or in colour, and resized. What a viewer would show in more than one way is refused.
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
_MOST_BYTES = 300_000_000  # some formats are read whole before their size in pixels is known
_UNHEARD = logging.NullHandler()  # without a handler, Python prints what Pillow logs of a damaged file


def read_image(path: Path, shape: tuple[int, ...], *, white: float = 255.0) -> Tensor:
    """Raw values of `shape` (C, H, W), from 0 to `white`. DataError (exit 3) says what is wrong with the file."""
    channels, height, width = shape
    if channels not in (1, 3):
        raise ConfigError(f"the model takes images of {channels} channels, which no image file has")
    logging.getLogger("PIL").addHandler(_UNHEARD)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a decoder says of a file that it then decodes
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
    except Exception as error:  # damage makes decoders fail in more ways than they document
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        raise DataError(f"{path} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from None
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32)).view(height, width, channels)
    return pixels.permute(2, 0, 1) * (white / 255)


def _refuse_ambiguity(image: Image.Image, path: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG, which carries smaller copies of itself
        raise DataError(f"{path} has {frames} frames: save one of them as an image of its own")
    signed = image.format == "TIFF" and 2 in tuple(_tag(image, _SAMPLE_FORMAT, (1,)))
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG") or signed:
        raise DataError(
            f"{path} has pixels of 32 bits or with a sign, whose white nobody knows: save it with 8 or 16 bits"
        )
    if _raw_mode(image) == "RGB;16B" and "transparency" in image.info:  # which Pillow compares with 8 of the 16 bits
        raise DataError(f"{path} marks a colour of 48 bits as transparent: save it with an alpha channel")


def _shown(image: Image.Image) -> Image.Image:
    """The image upright, with 8 bits per channel, and with white where it is transparent."""
    raw_mode, inverted = _raw_mode(image), image.format == "TIFF" and _tag(image, _PHOTOMETRIC, 1) == _MIN_IS_WHITE
    if raw_mode in ("L;2", "L;4") and "transparency" in image.info:  # a grey PNG's, of 2 or 4 bits as it lies there
        image.info["transparency"] *= 85 if raw_mode == "L;2" else 17
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return _grey_of_16_bits(image, most=4095 if raw_mode == "I;12" else 65535, inverted=inverted)
    if image.mode == "LAB":  # from which Pillow knows the way to RGB only
        return image.convert("RGB")
    if image.mode == "La":  # from grey times opacity, to grey only
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _grey_of_16_bits(image: Image.Image, *, most: int, inverted: bool) -> Image.Image:
    """With 8 bits, which `convert` would clip. most: the largest value; inverted: whether it is black."""
    values = np.asarray(image.convert("I"), dtype=np.float64)
    grey = ((most - values if inverted else values) * 255 / most).round().clip(0, 255)
    grey[values == image.info.get("transparency")] = 255
    return Image.fromarray(grey.astype(np.uint8))


_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339  # tags of a TIFF
_MIN_IS_WHITE = 0  # in grey images; Pillow inverts those of up to 8 bits itself


def _tag(image: Any, number: int, default: Any) -> Any:
    return image.tag_v2.get(number, default)


def _raw_mode(image: Any) -> str:
    """How a pixel lies in the file, in Pillow's words; empty when that is not known before it is decoded."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)
