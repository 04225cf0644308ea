"""Logistic and softmax regression."""

import math

from torch import Tensor, nn

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec


class Logistic(nn.Module):
    """One linear layer to logits: (B, ...) -> (B, 1) for two classes, (B, classes) for more.

    There is no sigmoid or softmax: the loss takes logits, which is numerically stable.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        if spec.task not in ("binary", "multiclass") or spec.kind == "tokens":
            raise ConfigError(
                f"model logistic is for classes of features or images, but the data is {spec} "
                f"for {spec.task}: choose --data breast-cancer, or model linear"
            )
        self.linear = nn.Linear(math.prod(spec.input_shape), spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]
