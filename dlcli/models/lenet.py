"""LeNet-5."""

import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.core.spec import DataSpec
from dlcli.models.blocks import check_options, need_image


class LeNet(nn.Module):
    """(B, C, H, W) -> (B, outputs). LeCun, Bottou, Bengio, Haffner 1998, with ReLU and max pooling.

    conv 6 5x5, pool, conv 16 5x5, pool, linear 120, 84, outputs. It is designed for 32x32 pixels: images of 28 to 31
    pixels are padded with zeros, smaller ones are resized (bilinear), larger ones are left as they are.
    """

    def __init__(self, spec: DataSpec, *, dropout: float = 0.0) -> None:
        super().__init__()
        height, width = need_image("lenet", spec, shortest=2)
        check_options(dropout=dropout)
        self.resize = min(height, width) < 28
        self.padding = (0, 0, 0, 0)
        if self.resize:
            height = width = 32
        elif min(height, width) < 32:
            down, across = max(32 - height, 0), max(32 - width, 0)
            self.padding = (across // 2, across - across // 2, down // 2, down - down // 2)
            height, width = height + down, width + across
        self.dropout = dropout
        self.conv1 = nn.Conv2d(spec.input_shape[0], 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        height, width = ((height - 4) // 2 - 4) // 2, ((width - 4) // 2 - 4) // 2
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.resize:
            x = F.interpolate(x, (32, 32), mode="bilinear", align_corners=False)
        elif any(self.padding):
            x = F.pad(x, self.padding)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(F.dropout(x, self.dropout, self.training)))
        return self.fc3(F.dropout(x, self.dropout, self.training))  # type: ignore[no-any-return]
