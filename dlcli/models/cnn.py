"""Two convolutions with pooling, two fully connected layers."""

import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.core.spec import DataSpec
from dlcli.models.blocks import check_options, need_image


class CNN(nn.Module):
    """(B, C, H, W) -> (B, outputs). Two times 3x3 convolution, 2x2 max pooling, ReLU; then two linear layers.

    ReLU comes after the pooling: max and ReLU commute, so values and gradients are the same, with a quarter of the
    work. dropout: probability before each linear layer.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        channels: tuple[int, ...] = (32, 64),
        hidden: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = need_image("cnn", spec, shortest=2 ** len(channels))
        check_options(channels=channels, hidden=hidden, dropout=dropout)
        before = spec.input_shape[0]
        self.convolutions = nn.ModuleList()
        for after in channels:
            self.convolutions.append(nn.Conv2d(before, after, 3, padding=1))
            before, height, width = after, height // 2, width // 2
        self.dropout = dropout
        self.hidden = nn.Linear(before * height * width, hidden)
        self.output = nn.Linear(hidden, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = F.relu(F.max_pool2d(convolution(x), 2))
        x = F.dropout(x.flatten(1), self.dropout, self.training)
        x = F.dropout(F.relu(self.hidden(x)), self.dropout, self.training)
        return self.output(x)  # type: ignore[no-any-return]
