"""Augmentations of whole batches that work on colours, and RandAugment, which is made of such and of small moves.

The functions take and return normalised images (B, C, H, W); `black` and `white` are the normalised values of a black
and a white pixel. Arithmetic is that of torchvision.transforms.v2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.data.draws import Draws

_LUMA = (0.2989, 0.587, 0.114)
_OPERATIONS = 2  # of each image in RandAugment
_STEPS = 30  # the largest magnitude of RandAugment


def jitter(x: Tensor, strength: float, black: Tensor, white: Tensor, draws: Draws) -> Tensor:
    """Brightness, contrast and saturation of each image times a factor between 1 - strength and 1 + strength."""
    factors = 1 + strength * (2 * draws.rand(3, len(x), 1, 1, 1, dim=1) - 1)
    image = (x - black) / (white - black)
    for change, factor in zip((brightness, contrast, saturation), factors.clamp_min(0), strict=True):
        image = change(image, factor, 1.0)
    return (image * (white - black) + black).contiguous(memory_format=torch.channels_last)


def rand_augment(x: Tensor, magnitude: float, black: Tensor, white: Tensor, draws: Draws) -> Tensor:
    """Each image changed by two operations, drawn one after the other, all of one magnitude from 0 to 30.

    RandAugment, Cubuk et al. 2020 (arXiv:1909.13719), with the operations and ranges of torchvision.
    """
    image = ((x - black) / (white - black) * 255).round_().clamp_(0, 255)
    part = magnitude / _STEPS
    for _ in range(_OPERATIONS):
        chosen = draws.randint(14, len(x))
        sign = draws.randint(2, len(x), 1, 1, 1) * 2 - 1
        changed = image.clone()
        for number in range(1, 14):  # 0 leaves the image as it is
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                changed[rows] = _operation(number, image[rows], part, sign[rows].to(x.dtype))
        image = changed.round_().clamp_(0, 255)
    return (image / 255 * (white - black) + black).contiguous(memory_format=torch.channels_last)


def _operation(number: int, image: Tensor, part: float, sign: Tensor) -> Tensor:
    """Pixels from 0 to 255. part: of the largest magnitude. sign: -1 or 1 of each image (B, 1, 1, 1)."""
    if number <= 5:
        return _moved(image, number, part, sign)
    factor = 1 + 0.9 * part * sign
    if number == 6:
        return brightness(image, factor, 255.0)
    if number == 7:
        return saturation(image, factor, 255.0)
    if number == 8:
        return contrast(image, factor, 255.0)
    if number == 9:
        return sharpness(image, factor)
    if number == 10:
        step = 2.0 ** round(4 * part)
        return (image / step).floor() * step  # posterize
    if number == 11:
        return torch.where(image >= 255 * (1 - part), 255 - image, image)  # solarize
    return stretched(image) if number == 12 else equalized(image)


def brightness(image: Tensor, factor: Tensor, most: float) -> Tensor:
    """most: the value of a white pixel."""
    return (image * factor).clamp(0, most)


def contrast(image: Tensor, factor: Tensor, most: float) -> Tensor:
    mean = _grey(image).mean((1, 2, 3), keepdim=True)
    return (image * factor + mean * (1 - factor)).clamp(0, most)


def saturation(image: Tensor, factor: Tensor, most: float) -> Tensor:
    return (image * factor + _grey(image) * (1 - factor)).clamp(0, most)


def sharpness(image: Tensor, factor: Tensor) -> Tensor:
    channels = image.shape[1]
    kernel = torch.ones(channels, 1, 3, 3, dtype=image.dtype, device=image.device)
    kernel[:, :, 1, 1] = 5
    if min(image.shape[2:]) <= 2:
        return image
    smooth = image.clone()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(image, kernel / 13, groups=channels).round()
    return (image * factor + smooth * (1 - factor)).clamp(0, 255)


def stretched(image: Tensor) -> Tensor:
    """The darkest value of each channel becomes 0, the brightest 255 (autocontrast)."""
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    scale = torch.where(high > low, 255 / (high - low).clamp_min(1), torch.ones_like(low))
    return ((image - torch.where(high > low, low, torch.zeros_like(low))) * scale).clamp(0, 255)


def equalized(image: Tensor) -> Tensor:
    """All values occur about equally often in each channel (histogram equalisation)."""
    b, c, h, w = image.shape
    values = image.long().flatten(2)  # (B, C, H W)
    place = torch.arange(b * c, device=image.device).view(b, c, 1) * 256
    counts = (values + place).flatten().bincount(minlength=b * c * 256).view(b, c, 256)
    last = counts.gather(2, values.amax(2, keepdim=True))
    step = (h * w - last) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp_min(1)).clamp(0, 255)
    return torch.where(step > 0, table.gather(2, values), values).view(b, c, h, w).to(image.dtype)


def _moved(image: Tensor, number: int, part: float, sign: Tensor) -> Tensor:
    """Sheared along an axis by up to 0.3, shifted by up to 45 %, or rotated by up to 30 degrees; nearest pixels, and
    black where nothing was."""
    b, _, h, w = image.shape
    amount = (part * sign).view(-1)
    zero, one = torch.zeros_like(amount), torch.ones_like(amount)
    matrix = [one, zero, zero, zero, one, zero]
    if number == 1:
        matrix[1] = 0.3 * amount * h / w
    elif number == 2:
        matrix[3] = 0.3 * amount * w / h
    elif number == 3:
        matrix[2] = -2 * (150 / 331 * w * amount).trunc() / w
    elif number == 4:
        matrix[5] = -2 * (150 / 331 * h * amount).trunc() / h
    else:
        angle = amount * (torch.pi / 6)
        cos, sin = angle.cos(), angle.sin()
        matrix = [cos, -sin * h / w, zero, sin * w / h, cos, zero]
    grid = F.affine_grid(torch.stack(matrix, 1).view(b, 2, 3), list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="nearest", align_corners=False)


def _grey(image: Tensor) -> Tensor:
    if image.shape[1] != 3:
        return image
    luma = torch.tensor(_LUMA, dtype=image.dtype, device=image.device).view(3, 1, 1)
    return (image * luma).sum(1, keepdim=True)
