"""An image file -> the pixels that a model expects, for `dlcli predict`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dlcli.core.errors import ConfigError
from dlcli.data.readers.pictures import Fit, fitted, opened, stretched


def read_image(
    path: Path,
    shape: tuple[int, ...],
    *,
    white: float = 255.0,
    crop: str = "",
    stored_size: int = 0,
    interpolation: str = "bilinear",
) -> Tensor:
    """Raw float32 values of `shape` (C, H, W), from 0 to `white`. DataError (exit 3) if the file cannot be used.

    crop: how the image files of the training were fitted, see Fit. Without it the image is stretched, and an animation
    refused. stored_size: the height and width to which they were fitted before they were cut to the shape; 0 for none.
    interpolation: how they were resized.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise ConfigError(f"the model expects images with {channels} channels, which no image file has")
    with opened(path, path) as image:
        if crop:
            tall, wide = (stored_size, stored_size) if stored_size else (height, width)
            top, left = (tall - height) // 2, (wide - width) // 2
            picture = fitted(image, path, Fit(channels, tall, wide, crop, interpolation))[
                top : top + height, left : left + width
            ]
        else:
            picture = np.asarray(stretched(image, path, channels, height, width))
    pixels = torch.from_numpy(picture.astype(np.float32)).view(height, width, channels)
    return pixels.permute(2, 0, 1) * (white / 255)
