"""An image file -> the pixels that a model takes.

The model gets what a viewer shows on a white page: upright as the camera noted it, transparent parts white, 16 bits
scaled to 8; then grey or in colour, and resized. What a viewer would show in more than one way is refused.
"""

import logging
import warnings
from pathlib import Path

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
                picture = _on_white(_eight_bits(ImageOps.exif_transpose(image)))
                picture = picture.convert("L" if channels == 1 else "RGB").resize((width, height))
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
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise DataError(f"{path} has pixels of 32 bits, whose white nobody knows: save it with 8 or 16")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits with 8: `convert` would clip it."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image.convert("I"), dtype=np.float64)
    return Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
