"""The filters of the first layer of a model of images, as pixels."""

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlcli.core.spec import DataSpec

_MOST, _IN_A_ROW, _LEAST = 64, 8, 32  # filters, filters, pixels


def first_weights(model: nn.Module, spec: DataSpec) -> tuple[str, Tensor]:
    """The name and the values of the first parameter with several dimensions: (N, C, H, W) if it is over images, also
    if it is over their pixels in a row."""
    name, value = next((n, p.detach().float().cpu()) for n, p in model.named_parameters() if p.dim() > 1)
    if spec.kind == "image" and value.dim() == 2 and value[0].numel() == torch.Size(spec.input_shape).numel():
        value = value.view(-1, *spec.input_shape)
    return name, value


def are_filters(value: Tensor) -> bool:
    return value.dim() == 4 and value.shape[1] in (1, 3)


def grey(value: Tensor) -> np.ndarray[Any, Any]:
    """Filters as uint8 (N, H, W, C): grey is 0, and black and white are the largest weight of all of them."""
    largest = value.abs().max().clamp(min=1e-30)
    return ((value / largest + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def in_one_image(value: Tensor) -> tuple[int, int, int, bytes]:
    """Height, width, channels, and the PNG of the first 64 filters, eight in a row."""
    from PIL import Image

    pixels = grey(value)[:_MOST]
    scale = -(-_LEAST // max(pixels.shape[1:3]))
    pixels = np.pad(pixels.repeat(scale, 1).repeat(scale, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
    count, height, width, channels = pixels.shape
    rows = -(-count // _IN_A_ROW)
    sheet = np.zeros((rows * height, _IN_A_ROW * width, channels), dtype=np.uint8)
    for number, each in enumerate(pixels):
        top, left = number // _IN_A_ROW * height, number % _IN_A_ROW * width
        sheet[top : top + height, left : left + width] = each
    content = io.BytesIO()
    Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(content, "PNG")
    return sheet.shape[0], sheet.shape[1], channels, content.getvalue()
