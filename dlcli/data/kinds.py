"""What the kinds of data (image, features, tokens) are as tensors."""

import torch
from torch import Tensor

from dlcli.core.spec import DataSpec


def input_dtype(spec: DataSpec) -> torch.dtype:
    """Of a model's input."""
    return torch.int64 if spec.kind == "tokens" else torch.float32


def laid_out(x: Tensor) -> Tensor:
    """(N, ...) model input in the memory that a model takes it in: images channels-last, all else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def sample_input(spec: DataSpec, batch_size: int) -> Tensor:
    """A model input of the right shape, type and memory: zeros."""
    return laid_out(torch.zeros(batch_size, *spec.input_shape, dtype=input_dtype(spec)))
