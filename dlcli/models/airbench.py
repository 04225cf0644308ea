"""Airbench, which trains fast on small images: three blocks of two convolutions, after patches that are whitened."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.core.spec import DataSpec
from dlcli.models.blocks import check_options, need_image

_PATCH = 2  # pixels
_MOMENTUM = 0.4  # of the statistics of batch norm, so that those of a short training are up to date
_SCALE = 1 / 9


class Airbench(nn.Module):
    """(B, C, H, W) -> (B, outputs). The network of Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU"
    (arXiv:2404.00498, section 3), with its channels by default.

    Patches of 2x2 pixels are whitened, in both signs; then for each number of channels a block: 3x3 convolution, 2x2
    max pooling, batch norm, GELU, 3x3 convolution, batch norm, GELU. Then the maximum of each channel and a linear
    layer without bias, times 1/9. A convolution begins as the identity as far as its channels allow. Small
    images are pooled as long as there are two pixels.

    Jordan whitens by the eigenvectors of patches of the training images. Here it is their cosine transform, which is
    nearly these eigenvectors for any photographs, and batch norm: so the network does not depend on the data.
    """

    def __init__(self, spec: DataSpec, *, channels: tuple[int, ...] = (64, 256, 256)) -> None:
        super().__init__()
        check_options(channels=channels)
        side = min(need_image("airbench", spec, shortest=_PATCH)) - _PATCH + 1
        self.whitening = _Whitening(spec.input_shape[0])
        before = 2 * self.whitening.patches.out_channels
        self.blocks = nn.ModuleList()
        for after in channels:
            self.blocks.append(_Block(before, after, pool=side > 1))
            before, side = after, side // 2
        self.output = nn.Linear(before, spec.outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.whitening(x)
        for block in self.blocks:
            x = block(x)
        return self.output(x.amax((2, 3))) * _SCALE  # type: ignore[no-any-return]


class _Whitening(nn.Module):
    """(B, C, H, W) -> (B, 8C, H - 1, W - 1): the cosine transform of each patch over its channels, rows and columns,
    normalised; GELU of it and of its negative. It is not trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        count = channels * _PATCH**2
        self.patches = nn.Conv2d(channels, count, _PATCH, bias=False)
        self.norm = nn.BatchNorm2d(count, affine=False, momentum=_MOMENTUM)
        pixels = cosine_transform(_PATCH)
        kernel = torch.einsum("ac,bh,dw->abdchw", cosine_transform(channels), pixels, pixels)
        self.patches.weight.data.copy_(kernel.reshape(self.patches.weight.shape))
        self.patches.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x))
        return F.gelu(torch.cat([x, -x], 1))


def cosine_transform(size: int) -> Tensor:
    """(size, size) orthonormal: row k is cosine k of DCT-II (Ahmed, Natarajan, Rao 1974)."""
    k, n = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    rows = torch.cos(torch.pi * (n + 0.5) * k / size)
    return rows / rows.norm(dim=1, keepdim=True)  # type: ignore[no-any-return]


class _Block(nn.Module):
    """(B, C, H, W) -> (B, C', H // 2, W // 2); without pooling (B, C', H, W)."""

    def __init__(self, before: int, after: int, *, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.first = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(after, momentum=_MOMENTUM)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(after, momentum=_MOMENTUM)
        for convolution in (self.first, self.second):
            nn.init.dirac_(convolution.weight.data[: convolution.in_channels])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = F.gelu(self.first_norm(F.max_pool2d(x, 2) if self.pool else x))
        return F.gelu(self.second_norm(self.second(x)))
