"""Blocks that models share. B batch, T steps, D width, H heads."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec

Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid", "none"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}

_MOST_POSITIONS = 2**26


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product self-attention (Vaswani et al. 2017, eq. 1): softmax(QK^T / sqrt(D/H)) V.

    (B, T, D) -> (B, T, D). `causal`: a step sees itself and the steps before it. real: (B, T), which steps may be seen;
    None for all. head_width: D/H; a head that is cut out takes its rows of the three projections with it.
    """

    def __init__(self, width: int, *, heads: int = 1, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ConfigError(f"model.heads = {heads} must divide model.width = {width}")
        self.heads, self.head_width, self.causal, self.dropout = heads, width // heads, causal, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        b, t, _ = x.shape
        seen = None
        if real is not None:
            seen = real[:, None, None]  # (B, 1, 1, T)
            if self.causal:
                seen = seen & torch.ones(t, t, dtype=torch.bool, device=x.device).tril()

        def split(y: Tensor) -> Tensor:
            return y.view(b, t, self.heads, self.head_width).transpose(1, 2)  # (B, H, T, D/H)

        mixed = F.scaled_dot_product_attention(
            split(self.query(x)),
            split(self.key(x)),
            split(self.value(x)),
            attn_mask=seen,
            is_causal=self.causal and seen is None,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(mixed.transpose(1, 2).reshape(b, t, self.heads * self.head_width))  # type: ignore[no-any-return]


class MeanMixing(nn.Module):
    """The ablation of attention: every step gets the plain mean of all values that are `real`, as in SelfAttention.
    (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        value = self.value(x)
        if real is not None:
            value = value * real[..., None]
            total = value.cumsum(1) if self.causal else value.sum(1, keepdim=True).expand_as(value)
            count = real.cumsum(1) if self.causal else real.sum(1, keepdim=True)
            mean = total / count[..., None]
        elif self.causal:
            mean = value.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        else:
            mean = value.mean(1, keepdim=True).expand_as(value)
        return self.output(mean)  # type: ignore[no-any-return]


def real_steps(tokens: Tensor) -> Tensor:
    """(B, T) bool: which tokens are no padding. The first step always counts, so that an empty text has one."""
    return torch.cat((torch.ones_like(tokens[:, :1], dtype=torch.bool), tokens[:, 1:] != 0), 1)


def mean_of_real(x: Tensor, real: Tensor) -> Tensor:
    """(B, T, D) -> (B, D), the mean over the steps that are `real` (B, T)."""
    return (x * real[..., None]).sum(1) / real.sum(1, keepdim=True)


def sinusoidal_positions(steps: int, width: int) -> Tensor:
    """(T, D) positional encoding of Vaswani et al. 2017, section 3.5: sines in even columns, cosines in odd ones."""
    if steps * width > _MOST_POSITIONS:
        raise ConfigError(f"model.width = {width} is too large for {steps} steps: take a smaller one")
    position = torch.arange(steps)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    table = torch.zeros(steps, width)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency[: width // 2])
    return table


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Its name, and the convolution to which the image goes: the first that was registered; None if there is none."""
    found = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return next(found, None)


def for_channels(weight: Tensor, channels: int) -> Tensor:
    """The weight (O, 3, H, W) of a first convolution for images with another number of channels.

    One channel: the sum over the three, which gives what a grey image gives that is copied to all three. More: the
    three in turn, scaled so that equal channels give what they gave before.
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % 3] * (3 / channels)


def check_options(*, dropout: float = 0.0, **sizes: int | tuple[int, ...]) -> None:
    """ConfigError unless every size of a model is at least 1 and its dropout is in [0, 1)."""
    for name, size in sizes.items():
        if min(size if isinstance(size, tuple) else (size,), default=1) < 1:
            raise ConfigError(f"model.{name} = {size} must be at least 1")
    if not 0 <= dropout < 1:
        raise ConfigError(f"model.dropout = {dropout} is out of range: it must be in [0, 1)")


def need_image(model: str, spec: DataSpec, *, shortest: int) -> tuple[int, int]:
    """Height and width of image data; ConfigError if the data is not images, or the images are too small to pool."""
    if spec.kind != "image":
        raise ConfigError(f"model {model} is for images, but the data is {spec}: choose --data digits, or model mlp")
    if spec.task == "next-token":
        raise ConfigError(f"model {model} does not predict next tokens: choose rnn or attention")
    _, height, width = spec.input_shape
    if min(height, width) < shortest:
        raise ConfigError(f"model {model} needs images of at least {shortest} pixels, but the data is {spec}")
    return height, width
