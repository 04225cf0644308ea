"""Augmentation of whole batches on their device. B batch, C channels, H height, W width.

The functions take normalised input; `blank` is the normalised value of a black pixel. The random numbers for each
sample come from `draws`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.core.spec import DataSpec
from dlcli.data.draws import Draws

# name -> (default strength, lowest, highest, kinds of data); a default of None: there is no strength.
_KNOWN: dict[str, tuple[float | None, float, float, tuple[str, ...]]] = {
    "shift": (2, 1, 1024, ("image",)),
    "flip": (None, 0, 0, ("image",)),
    "rotate": (10, 0, 180, ("image",)),
    "erase": (0.25, 0, 1, ("image",)),
    "noise": (0.1, 0, 1000, ("image", "features")),
    "crop": (0.08, 0.01, 1, ("image",)),
    "color": (0.4, 0, 1, ("image",)),
    "randaugment": (9, 0, 30, ("image",)),
    "mixup": (0.2, 0, 1000, ("image", "features")),
    "cutmix": (1.0, 0, 1000, ("image",)),
}

# Values of an image from which one at a time is faster on a CPU than the whole batch.
_LARGE = 2**15


@dataclass(frozen=True)
class Augmentation:
    """name: a key of _KNOWN. strength: pixels, degrees, probability, standard deviation, the smallest part of the area
    (crop), the largest change of a factor (color), magnitude (randaugment), or the alpha of mixup and cutmix."""

    name: str
    strength: float


def parse(texts: Sequence[str], spec: DataSpec) -> tuple[Augmentation, ...]:
    """`("shift=2", "flip")` as Augmentations, crop first, and mixup and cutmix last; ConfigError for one that is
    unknown, out of range, or not for this kind of data."""
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if name not in _KNOWN:
            raise ConfigError(f"unknown augment {name!r}: {did_you_mean(name, _KNOWN)}")
        default, low, high, kinds = _KNOWN[name]
        if spec.kind not in kinds:
            raise ConfigError(f"augment = {name} is for {' and '.join(kinds)}, but the data is {spec}")
        if default is None and equals:
            raise ConfigError(f"augment = {text}: {name} takes no value")
        try:
            strength = float(value) if equals else float(default or 0)
        except ValueError:
            raise ConfigError(f"augment = {text}: {value!r} is not a number") from None
        if name == "shift" and low <= strength <= high and not strength.is_integer():
            raise ConfigError(f"augment = {text}: shift takes whole pixels")
        if not low <= strength <= high:
            raise ConfigError(f"augment = {text} is out of range: {name} goes from {low:g} to {high:g}")
        found.append(Augmentation(name, strength))
    # A crop makes the input of the others, and samples are mixed when they are augmented already.
    return tuple(sorted(found, key=lambda a: (a.name != "crop") + (a.name in ("mixup", "cutmix"))))


def crop(x: Tensor, least: float, height: int, width: int, draws: Draws) -> Tensor:
    """A part of each stored (B, C, H, W) image, resized to height and width: between `least` and all of its area, with
    an aspect ratio between 3/4 and 4/3. What exceeds the image is cut back to it.

    Random resized crops, Szegedy et al. 2014 (arXiv:1409.4842). The images are not normalised yet.
    """
    b, _, h, w = x.shape
    u = draws.rand(4, b, dim=1, dtype=torch.float64)
    area, aspect = (least + (1 - least) * u[0]) * h * w, (3 / 4) * (16 / 9) ** u[1]
    tall = (area / aspect).sqrt().round().clamp(1, h).long()
    wide = (area * aspect).sqrt().round().clamp(1, w).long()
    top, left = (u[2] * (h - tall + 1)).long(), (u[3] * (w - wide + 1)).long()
    boxes = torch.stack([top, top + tall, left, left + wide], 1).tolist()
    if x.dtype == torch.uint8 and x.device.type != "cpu":
        x = x.float()
    parts = [_resized(x[k : k + 1, :, t:d, i:j], height, width) for k, (t, d, i, j) in enumerate(boxes)]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False, antialias=True)


def shift(x: Tensor, pixels: int, blank: Tensor, draws: Draws) -> Tensor:
    """Each (B, C, H, W) image moved by up to `pixels` along each axis; the uncovered border is blank."""
    b, c, h, w = x.shape
    canvas = blank.expand(b, c, h + 2 * pixels, w + 2 * pixels).clone(memory_format=torch.channels_last)
    canvas[:, :, pixels : pixels + h, pixels : pixels + w] = x
    offsets = draws.randint(2 * pixels + 1, 2, b, 1, dim=1)
    # All positions of the window: (B, 2p + 1, 2p + 1, H, W, C), a view.
    windows = canvas.unfold(2, h, 1).unfold(3, w, 1).permute(0, 2, 3, 4, 5, 1)
    moved = windows[torch.arange(b, device=x.device), offsets[0, :, 0], offsets[1, :, 0]]
    return moved.permute(0, 3, 1, 2)


def flip(x: Tensor, draws: Draws) -> Tensor:
    """Each (B, C, H, W) image mirrored left to right with probability 1/2."""
    mirrored = draws.rand(len(x), 1, 1, 1) < 0.5
    if x.device.type != "cpu" or x[0].numel() < _LARGE:
        return torch.where(mirrored, x.flip(-1), x)
    result = x.clone()
    for number in mirrored.flatten().nonzero().flatten().tolist():
        result[number] = x[number].flip(-1)
    return result


def rotate(x: Tensor, degrees: float, blank: Tensor, draws: Draws) -> Tensor:
    """Each (B, C, H, W) image rotated about its centre by up to `degrees` either way, with bilinear interpolation."""
    b, _, h, w = x.shape
    angle = (2 * draws.rand(b) - 1) * (degrees * torch.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # In the coordinates of grid_sample every axis runs from -1 to 1, so a rotation needs the aspect ratio.
    turn = torch.stack([cos, -sin * h / w, zero, sin * w / h, cos, zero], 1).view(b, 2, 3)
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)
    turned = F.grid_sample(x - blank, grid, align_corners=False)
    return turned.contiguous(memory_format=torch.channels_last) + blank


def erase(x: Tensor, probability: float, blank: Tensor, draws: Draws) -> Tensor:
    """Each (B, C, H, W) image, with this probability, gets a blank rectangle over 2 to 33 % of its area.

    Random erasing, Zhong et al. 2017 (arXiv:1708.04896); aspect ratio 0.3 to 3.3.
    """
    b, _, h, w = x.shape
    u = draws.rand(5, b, dim=1)
    area, aspect = 0.02 + 0.31 * u[0], 0.3 * (3.3 / 0.3) ** u[1]
    height, width = (area * aspect).sqrt() * h, (area / aspect).sqrt() * w
    top, left = u[2] * (h - height), u[3] * (w - width)

    def inside(size: int, start: Tensor, length: Tensor) -> Tensor:
        centre = torch.arange(size, device=x.device) + 0.5
        return (centre >= start[:, None]) & (centre < (start + length)[:, None])  # (B, size)

    hole = inside(h, top, height)[:, None, :, None] & inside(w, left, width)[:, None, None, :]
    hole &= (u[4] < probability)[:, None, None, None]
    return torch.where(hole, blank, x)


def noise(x: Tensor, deviation: float, draws: Draws) -> Tensor:
    """`x` plus normal noise; the standard deviation is in units of the normalised input."""
    return x + deviation * draws.randn(*x.shape, dtype=x.dtype)


def mixup(x: Tensor, other: Tensor, alpha: float, seed: int) -> tuple[Tensor, float]:
    """`weight * x + (1 - weight) * other`, and the weight ~ Beta(alpha, alpha).

    Zhang et al. 2017 (arXiv:1710.09412).
    """
    weight = float(np.random.default_rng(seed).beta(alpha, alpha)) if alpha > 0 else 1.0
    return weight * x + (1 - weight) * other, weight


def cutmix(x: Tensor, other: Tensor, alpha: float, seed: int) -> tuple[Tensor, float]:
    """`x` with a rectangle of the other sample in each image, and the part of the area that is left of the image
    itself: before the rectangle is cut off at the border, that is ~ Beta(alpha, alpha).

    Yun et al. 2019 (arXiv:1905.04899); the same rectangle for the whole batch.
    """
    draw = np.random.default_rng(seed)
    h, w = x.shape[2:]
    side = float(np.sqrt(1 - draw.beta(alpha, alpha))) if alpha > 0 else 0.0
    tall, wide, row, column = int(h * side), int(w * side), int(draw.integers(h)), int(draw.integers(w))
    top, left = max(0, row - tall // 2), max(0, column - wide // 2)
    down, right = min(h, row + tall // 2), min(w, column + wide // 2)
    mixed = x.clone()
    mixed[:, :, top:down, left:right] = other[:, :, top:down, left:right]
    return mixed, 1 - (down - top) * (right - left) / (h * w)


def mixed(
    x: Tensor, y: Tensor, ways: Sequence[Augmentation], seed: int, *, own: int | None = None
) -> tuple[Tensor, Tensor, float]:
    """The samples x (B, ...) mixed with other ones, the targets of these, and the weight of the own ones, by mixup or
    cutmix; if both are asked for, by one of them, drawn for each batch.

    The samples are in random order already, so each is mixed with the one at the same place of the reversed batch. own:
    of a part of a batch, how many of the samples are its own; the other ones follow them, in their order.
    Those of a part without any are mixed with themselves.
    """
    way = ways[int(np.random.default_rng((seed, len(ways))).integers(len(ways)))]
    if own is None:
        other, other_y = x.flip(0), y.flip(0)
    else:
        x, other, other_y = (x[:own], x[own:], y[own:]) if own else (x, x, y)
    result, weight = (mixup if way.name == "mixup" else cutmix)(x, other, way.strength, seed)
    return result, other_y, weight
