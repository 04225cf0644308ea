"""One convolution with pooling, one fully connected layer."""

import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.core.spec import DataSpec
from dlcli.models.blocks import check_options, need_image


class SimpleCNN(nn.Module):
    """(B, C, H, W) -> (B, outputs): 3x3 convolution, 2x2 max pooling, ReLU, linear."""

    def __init__(self, spec: DataSpec, *, channels: int = 16) -> None:
        super().__init__()
        height, width = need_image("simple-cnn", spec, shortest=2)
        check_options(channels=channels)
        self.convolution = nn.Conv2d(spec.input_shape[0], channels, 3, padding=1)
        self.output = nn.Linear(channels * (height // 2) * (width // 2), spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.convolution(x), 2))  # ReLU after pooling: the same values, a quarter of the work
        return self.output(x.flatten(1))  # type: ignore[no-any-return]
