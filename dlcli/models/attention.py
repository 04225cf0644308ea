"""A self-attention model of sequences."""

from typing import Literal

import torch
from torch import Tensor, nn

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.models.blocks import (
    MeanMixing,
    SelfAttention,
    check_options,
    mean_of_real,
    real_steps,
    sinusoidal_positions,
)


class Attention(nn.Module):
    """Embedding + positions, residual self-attention layers, linear. B batch, T steps, D width, V vocabulary.

    Classes: tokens (B, T), or images (B, C, H, W) read as a sequence of rows, -> (B, classes), from the last
    step; of texts, which have padding, from the mean of all their steps. Next token: (B, T) -> (B, T, V), always
    causal.

    width: D. heads: of each attention layer; must divide width. layers: number of attention layers.
    causal: a step sees only itself and the steps before it. positions: learned, sinusoidal or none.
    mixing: attention, or mean, the ablation in which every step sees the average of all.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        width: int = 64,
        heads: int = 4,
        layers: int = 1,
        causal: bool = False,
        positions: Literal["learned", "sinusoidal", "none"] = "learned",
        mixing: Literal["attention", "mean"] = "attention",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        next_token = spec.task == "next-token"
        if spec.kind == "features" or spec.task == "regression":
            raise ConfigError(
                f"model attention is for classes of tokens or images, or for next tokens, but the data is {spec} "
                f"for {spec.task}: choose --data recall, or model mlp"
            )
        check_options(width=width, layers=layers, dropout=dropout)
        if spec.kind == "image":
            channels, steps, columns = spec.input_shape
            self.embedding: nn.Module = nn.Linear(channels * columns, width)
        else:
            steps = spec.input_shape[0]
            self.embedding = nn.Embedding(spec.vocabulary, width)
        self.next_token = next_token
        self.image, self.padding = spec.kind == "image", spec.padding
        if positions == "learned":
            self.positions: Tensor | None = nn.Parameter(torch.empty(steps, width))
            with torch.no_grad():
                self.positions.copy_(0.02 * torch.randn(steps, width))
        else:
            table = sinusoidal_positions(steps, width) if positions == "sinusoidal" else None
            self.register_buffer("positions", table, persistent=False)
        causal = causal or next_token
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.layers = nn.ModuleList(
            SelfAttention(width, heads=heads, causal=causal, dropout=dropout)
            if mixing == "attention"
            else MeanMixing(width, causal=causal)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.image:
            x = x.transpose(1, 2).flatten(2)  # (B, H, C * W): one step per row
        real = real_steps(x) if self.padding else None
        x = self.embedding(x)  # (B, T, D)
        if self.positions is not None:
            x = x + self.positions[: x.shape[1]]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x), real)
        if real is not None:
            x = mean_of_real(x, real)
        elif not self.next_token:
            x = x[:, -1]  # (B, D)
        return self.output(self.norm(x))  # type: ignore[no-any-return]
