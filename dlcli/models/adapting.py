"""Weights of another shape that can be adapted: for grey images, and for images of another size."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.models.blocks import first_convolution, for_channels

_POSITIONS = ("pos_embedding", "pos_embed", "position_embedding", "positions")


def adapted(model: nn.Module, name: str, weight: Tensor) -> tuple[Tensor, str] | None:
    """`weight` in the shape that the tensor `name` of the model has, and a sentence; None if that cannot be done.

    The weights of the first convolution are summed over three channels for grey images. A table of positions (1, T, D)
    of a square of patches is interpolated, as torchvision's `interpolate_embeddings` does.
    """
    wanted = model.state_dict()[name].shape
    if weight.dim() == 4 and weight.shape[1] == 3 and wanted == (weight.shape[0], wanted[1], *weight.shape[2:]):
        first = first_convolution(model)
        if first is not None and name == f"{first[0]}.weight":
            how = "summed over their 3 channels" if wanted[1] == 1 else f"repeated for {wanted[1]} channels"
            return for_channels(weight, wanted[1]), f"{name}: the weights are {how}"
    if name.rpartition(".")[2] in _POSITIONS and weight.dim() == 3 and (1, wanted[-1]) == weight.shape[::2]:
        return _interpolated(weight, wanted[1], name)
    return None


def _interpolated(table: Tensor, steps: int, name: str) -> tuple[Tensor, str] | None:
    """table: (1, T, D) of n x n patches, after at most one class token, which is kept. None if either is no square."""
    for tokens in (0, 1):
        before, after = table.shape[1] - tokens, steps - tokens
        n, m = math.isqrt(max(before, 0)), math.isqrt(max(after, 0))
        if n * n == before and m * m == after and n and m:
            grid = table[:, tokens:].float().transpose(1, 2).reshape(1, -1, n, n)
            made = F.interpolate(grid, size=(m, m), mode="bicubic", align_corners=True)
            made = made.flatten(2).transpose(1, 2).to(table.dtype)
            told = f"{name}: {n}x{n} positions interpolated to {m}x{m}"
            return torch.cat((table[:, :tokens], made), 1), told
    return None
