"""A model of tables: embeddings of numbers, and a residual MLP."""

import math

import torch
from torch import Tensor, nn

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.models.blocks import check_options

_SLOWEST = 0.05


class Tabular(nn.Module):
    """Features (B, F) -> (B, outputs): a residual MLP (Gorishniy et al. 2021) on embedded numbers.

    Features that are 0 or 1 enter the first layer as they are: its weights are the embeddings of the categories, which
    it adds up.

    width: of each hidden layer. blocks: hidden layers after the first; each adds to its input.
    embedding: values that each number becomes. frequencies: waves of each number. highest: the highest frequency at
    the start, in waves per standard deviation. dropout: probability after each hidden layer.
    """

    numbers: Tensor
    flags: Tensor

    def __init__(
        self,
        spec: DataSpec,
        *,
        width: int = 256,
        blocks: int = 1,
        embedding: int = 16,
        frequencies: int = 24,
        highest: float = 4.0,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if spec.kind != "features":
            raise ConfigError(
                f"model tabular is for features, but the data is {spec}: choose --data table:FILE, or model mlp"
            )
        check_options(width=width, blocks=blocks, embedding=embedding, frequencies=frequencies, dropout=dropout)
        if not _SLOWEST < highest < math.inf:
            raise ConfigError(f"model.highest = {highest} must be above {_SLOWEST}, the lowest frequency")
        numbers = sorted(set(range(spec.input_shape[0])) - set(spec.flags))
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64), persistent=False)
        self.register_buffer("flags", torch.tensor(spec.flags, dtype=torch.int64), persistent=False)
        self.embedding = (
            Periodic(len(numbers), embedding, frequencies=frequencies, highest=highest) if numbers else None
        )
        self.first = HiddenLayer(len(numbers) * embedding + len(spec.flags), width, dropout=dropout)
        self.blocks = nn.ModuleList(HiddenLayer(width, width, dropout=dropout) for _ in range(blocks))
        self.output = nn.Linear(width, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        parts = [] if self.embedding is None else [self.embedding(x[:, self.numbers])]
        parts += [x[:, self.flags]] if len(self.flags) else []
        x = self.first(torch.cat(parts, 1))
        for block in self.blocks:
            x = x + block(x)
        return self.output(x)  # type: ignore[no-any-return]


class Periodic(nn.Module):
    """The embedding PLR of numbers (Gorishniy et al. 2022): relu(W [cos 2 pi f x, sin 2 pi f x] + b), with frequencies
    f, weights W and biases b of each number x. (B, N) -> (B, N * width).

    The frequencies are learned. They start evenly spread on a logarithmic scale, not normally distributed: what is the
    best standard deviation differs a hundredfold between tables.
    """

    def __init__(self, numbers: int, width: int, *, frequencies: int, highest: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(2 * frequencies)
        exponents = torch.empty(numbers, 1, frequencies).uniform_(math.log(_SLOWEST), math.log(highest))
        self.frequencies = nn.Parameter(exponents.exp())
        self.weight = nn.Parameter(torch.empty(numbers, 2 * frequencies, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(numbers, 1, width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * math.pi * x.T[:, :, None] * self.frequencies  # (N, B, frequencies)
        waves = torch.cat((angles.cos(), angles.sin()), 2)
        return (waves @ self.weight + self.bias).relu().transpose(0, 1).flatten(1)


class HiddenLayer(nn.Module):
    """Linear, ReLU, dropout: (B, before) -> (B, width)."""

    def __init__(self, before: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(before, width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]
