"""Linear regression."""

import math

from torch import Tensor, nn

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec


class Linear(nn.Module):
    """y = Wx + b: (B, ...) -> (B, outputs)."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        if spec.task != "regression" or spec.kind == "tokens":
            raise ConfigError(
                f"model linear is for regression on features or images, but the data is {spec} "
                f"for {spec.task}: choose --data diabetes, or model logistic"
            )
        self.linear = nn.Linear(math.prod(spec.input_shape), spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]
