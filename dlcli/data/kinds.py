"""The tensors that represent each kind of data (image, features, tokens)."""

import torch
from torch import Tensor

from dlcli.core.spec import DataSpec


def input_dtype(spec: DataSpec) -> torch.dtype:
    """The data type of the model's input."""
    return torch.int64 if spec.kind == "tokens" else torch.float32


def laid_out(x: Tensor) -> Tensor:
    """(N, ...) model input in the memory format that models expect: channels-last for images, else unchanged."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def without_padding(x: Tensor, spec: DataSpec) -> Tensor:
    """(N, T) tokens without the last steps that are padding in all rows; anything else as it is."""
    if not spec.padding:
        return x
    longest = int((x != 0).any(0).nonzero().max()) + 1 if bool(x.any()) else 1
    return x[:, :longest]


def sample_input(spec: DataSpec, batch_size: int) -> Tensor:
    """Zeros (batch_size, *input_shape) with the data type and memory format of model input."""
    return laid_out(torch.zeros(batch_size, *spec.input_shape, dtype=input_dtype(spec)))
