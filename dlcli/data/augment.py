"""Augmentation of whole batches on their device. B batch, C channels, H height, W width.

The functions take normalised input; `blank` is the normalised value of a black pixel. The random numbers for each
sample come from `generator`, which is on the device of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.core.spec import DataSpec

# name -> (default strength, lowest, highest, kinds of data); a default of None: there is no strength.
_KNOWN: dict[str, tuple[float | None, float, float, tuple[str, ...]]] = {
    "shift": (2, 1, 1024, ("image",)),
    "flip": (None, 0, 0, ("image",)),
    "rotate": (10, 0, 180, ("image",)),
    "erase": (0.25, 0, 1, ("image",)),
    "noise": (0.1, 0, 1000, ("image", "features")),
    "mixup": (0.2, 0, 1000, ("image", "features")),
}


@dataclass(frozen=True)
class Augmentation:
    """name: one of shift, flip, rotate, erase, noise, mixup. strength: pixels, degrees, probability,
    standard deviation, or the alpha of mixup."""

    name: str
    strength: float


def parse(texts: Sequence[str], spec: DataSpec) -> tuple[Augmentation, ...]:
    """`("shift=2", "flip")` as Augmentations, mixup last; ConfigError for one that is unknown, out of range, or not for
    this kind of data."""
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
    # Mixup mixes samples that are augmented already.
    return tuple(sorted(found, key=lambda a: a.name == "mixup"))


def shift(x: Tensor, pixels: int, blank: Tensor, generator: torch.Generator) -> Tensor:
    """Each (B, C, H, W) image moved by up to `pixels` along each axis; the uncovered border is blank."""
    b, c, h, w = x.shape
    canvas = blank.expand(b, c, h + 2 * pixels, w + 2 * pixels).clone(memory_format=torch.channels_last)
    canvas[:, :, pixels : pixels + h, pixels : pixels + w] = x
    offsets = torch.randint(2 * pixels + 1, (2, b, 1), generator=generator, device=x.device)
    # All positions of the window: (B, 2p + 1, 2p + 1, H, W, C), a view.
    windows = canvas.unfold(2, h, 1).unfold(3, w, 1).permute(0, 2, 3, 4, 5, 1)
    moved = windows[torch.arange(b, device=x.device), offsets[0, :, 0], offsets[1, :, 0]]
    return moved.permute(0, 3, 1, 2)


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each (B, C, H, W) image mirrored left to right with probability 1/2."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(-1), x)


def rotate(x: Tensor, degrees: float, blank: Tensor, generator: torch.Generator) -> Tensor:
    """Each (B, C, H, W) image rotated about its centre by up to `degrees` either way, with bilinear interpolation."""
    b, _, h, w = x.shape
    angle = (2 * torch.rand(b, generator=generator, device=x.device) - 1) * (degrees * torch.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # In the coordinates of grid_sample every axis runs from -1 to 1, so a rotation needs the aspect ratio.
    turn = torch.stack([cos, -sin * h / w, zero, sin * w / h, cos, zero], 1).view(b, 2, 3)
    grid = F.affine_grid(turn, list(x.shape), align_corners=False)
    turned = F.grid_sample(x - blank, grid, align_corners=False)
    return turned.contiguous(memory_format=torch.channels_last) + blank


def erase(x: Tensor, probability: float, blank: Tensor, generator: torch.Generator) -> Tensor:
    """Each (B, C, H, W) image, with this probability, gets a blank rectangle over 2 to 33 % of its area.

    Random erasing, Zhong et al. 2017 (arXiv:1708.04896); aspect ratio 0.3 to 3.3.
    """
    b, _, h, w = x.shape
    u = torch.rand(5, b, generator=generator, device=x.device)
    area, aspect = 0.02 + 0.31 * u[0], 0.3 * (3.3 / 0.3) ** u[1]
    height, width = (area * aspect).sqrt() * h, (area / aspect).sqrt() * w
    top, left = u[2] * (h - height), u[3] * (w - width)

    def inside(size: int, start: Tensor, length: Tensor) -> Tensor:
        centre = torch.arange(size, device=x.device) + 0.5
        return (centre >= start[:, None]) & (centre < (start + length)[:, None])  # (B, size)

    hole = inside(h, top, height)[:, None, :, None] & inside(w, left, width)[:, None, None, :]
    hole &= (u[4] < probability)[:, None, None, None]
    return torch.where(hole, blank, x)


def noise(x: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """`x` plus normal noise; the standard deviation is in units of the normalised input."""
    return x + deviation * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def mixup(x: Tensor, y: Tensor, alpha: float, seed: int) -> tuple[Tensor, Tensor, float]:
    """`weight * x + (1 - weight) * other x`, the other samples' y, and the weight ~ Beta(alpha, alpha).

    Zhang et al. 2017 (arXiv:1710.09412). The samples are in random order already, so each is mixed with the one at the
    same place of the reversed batch.
    """
    weight = float(np.random.default_rng(seed).beta(alpha, alpha)) if alpha > 0 else 1.0
    return weight * x + (1 - weight) * x.flip(0), y.flip(0), weight
