"""A bag of n-grams of tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.models.blocks import check_options, real_steps

# An n-gram's hash is that of the one without its last token, times _FACTOR, plus that token, modulo _MODULUS: below
# 2**63 for all tokens, so that every runtime computes the same.
_FACTOR = 1_000_003
_MODULUS = 2**31 - 1
_MOST_BUCKETS = 2**26


class NGrams(nn.Module):
    """The sum of the vectors of all n-grams of a text, over the root of their number, and a linear layer (fastText:
    Joulin et al. 2016, arXiv:1607.01759). B batch, T steps, N n-grams, D width: (B, T) -> (B, outputs).

    shortest, longest: tokens of an n-gram. buckets: how many vectors there are; n-grams whose hashes are the same
    modulo `buckets` share one. width: D. dropout: probability with which an n-gram is left out in training.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        shortest: int = 1,
        longest: int = 5,
        buckets: int = 131_072,
        width: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if spec.kind != "tokens" or spec.task == "next-token":
            raise ConfigError(
                f"model ngrams is for classes of texts, but the data is {spec} for {spec.task}: choose "
                "--data texts:FILE, or another model"
            )
        check_options(shortest=shortest, longest=longest, buckets=buckets, width=width, dropout=dropout)
        if longest < shortest:
            raise ConfigError(f"model.longest = {longest} is less than model.shortest = {shortest}")
        if buckets > _MOST_BUCKETS:
            raise ConfigError(f"model.buckets = {buckets} is more than {_MOST_BUCKETS}")
        self.padding = spec.padding
        self.shortest, self.longest, self.buckets, self.dropout = shortest, longest, buckets, dropout
        self.embedding = nn.Embedding(buckets, width)
        nn.init.uniform_(self.embedding.weight, -1 / width, 1 / width)
        self.output = nn.Linear(width, spec.outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        buckets, weights = self.hashed(tokens)
        if self.training and self.dropout:
            weights = F.dropout(weights, self.dropout)
        total = (weights[:, None] @ self.embedding(buckets))[:, 0]  # (B, 1, N) @ (B, N, D) -> (B, D)
        return self.output(total)  # type: ignore[no-any-return]

    def spans(self, steps: int) -> list[tuple[int, int]]:
        """Where in a text of so many tokens each n-gram of `hashed` begins, and how many tokens it has."""
        return [(start, n) for n in range(self.shortest, self.longest + 1) for start in range(steps)]

    def hashed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) the buckets of all n-grams, and their weights: 0 for those that reach beyond the text."""
        steps = tokens.shape[1]
        after = F.pad(tokens, (0, self.longest - 1))
        real = real_steps(tokens) if self.padding else torch.ones_like(tokens, dtype=torch.bool)
        real = F.pad(real, (0, self.longest - 1))
        hashes, whole = torch.zeros_like(tokens), torch.ones_like(tokens, dtype=torch.bool)
        found, weights = [], []
        for n in range(self.longest):
            hashes = (hashes * _FACTOR + after[:, n : n + steps]) % _MODULUS
            whole = whole & real[:, n : n + steps]
            if n + 1 >= self.shortest:
                found.append(hashes % self.buckets)
                weights.append(whole.to(self.embedding.weight.dtype))
        weight = torch.cat(weights, 1)
        return torch.cat(found, 1), weight / weight.sum(1, keepdim=True).clamp_min(1).sqrt()
