"""The architectures of dlcli as an article writes them: rows of channels in memory, ReLU before pooling.

`tests/test_benchmarks.py` holds them against dlcli's: with the same weights the same output.
"""

from torch import Tensor, nn
from torch.nn import functional as F

SIDE, CLASSES = 28, 10


def plain(name: str, *, vocabulary: int = 0, steps: int = 0, outputs: int = CLASSES) -> nn.Module:
    """cnn, lenet or mlp for images of 28x28; rnn or attention for rows of `steps` tokens."""
    if name == "rnn":
        return Recurrent(vocabulary)
    if name == "attention":
        return Attention(vocabulary, steps, outputs)
    if name == "cnn":
        layers: list[nn.Module] = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        layers += [nn.Linear(64 * (SIDE // 4) ** 2, 128), nn.ReLU(), nn.Linear(128, outputs)]
    elif name == "lenet":
        layers = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
        layers += [nn.Linear(84, outputs)]
    else:
        layers = [nn.Flatten(), nn.Linear(SIDE * SIDE, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()]
        layers += [nn.Linear(64, outputs)]
    return nn.Sequential(*layers)


class Recurrent(nn.Module):
    def __init__(self, vocabulary: int, embedding: int = 64, hidden: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.gru(self.embedding(x))[0])


class Attention(nn.Module):
    """One layer, before which is normalised; query, key and value are one product."""

    def __init__(self, vocabulary: int, steps: int, outputs: int, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(nn.init.normal_(nn.Embedding(steps, width).weight.detach(), std=0.02))
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.positions
        b, t, d = h.shape
        q, k, v = self.qkv(self.norm1(h)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)
        return self.output(self.norm2((h + self.mixed(mixed))[:, -1]))
