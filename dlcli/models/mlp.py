"""Multi-layer perceptron."""

import math

from torch import Tensor, nn

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.models.blocks import ACTIVATIONS, Activation, check_options


class MLP(nn.Module):
    """Fully connected layers with an activation after each but the last: (B, ...) -> (B, outputs).

    hidden: width of each hidden layer. activation: `none` makes it one linear map, however deep.
    dropout: probability after each hidden layer.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        hidden: tuple[int, ...] = (128, 64),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if spec.task == "next-token" or spec.kind == "tokens":
            raise ConfigError(
                f"model mlp is for features or images, but the data is {spec}: choose rnn, attention or ngrams"
            )
        check_options(hidden=hidden, dropout=dropout)
        layers: list[nn.Module] = [nn.Flatten()]
        before = math.prod(spec.input_shape)
        for width in hidden:
            layers += [nn.Linear(before, width), ACTIVATIONS[activation]()]
            layers += [nn.Dropout(dropout)] if dropout else []
            before = width
        self.layers = nn.Sequential(*layers, nn.Linear(before, spec.outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]
