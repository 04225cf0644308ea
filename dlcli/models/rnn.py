"""A recurrent language model."""

from torch import Tensor, nn

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.models.blocks import check_options
from dlcli.models.gru import GRU


class RNN(nn.Module):
    """Embedding, GRU (Cho et al. 2014), and a linear layer on every step. B batch, T steps, V vocabulary.

    embedding: width of a token's vector. hidden: width of the state. dropout: probability before the linear
    layer and between recurrent layers.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        embedding: int = 64,
        hidden: int = 256,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if spec.task != "next-token":
            raise ConfigError(
                f"model rnn predicts the next token of a text, but the data is {spec} for {spec.task}: "
                "choose --data pydocs, or another model"
            )
        check_options(embedding=embedding, hidden=hidden, layers=layers, dropout=dropout)
        self.embedding = nn.Embedding(spec.vocabulary, embedding)
        self.gru = GRU(embedding, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, spec.outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) tokens -> (B, T, V) logits of the next one, from a state of zeros."""
        return self.run(tokens)[0]

    def run(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T) tokens and the (layers, B, hidden) state before them -> (B, T, V) logits and the state after."""
        steps, state = self.gru(self.embedding(tokens), state)  # (B, T, hidden)
        return self.output(self.dropout(steps)), state
