"""A recurrent model of texts."""

from torch import Tensor, nn

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.models.blocks import check_options, mean_of_real, real_steps
from dlcli.models.gru import GRU


class RNN(nn.Module):
    """Embedding, GRU (Cho et al. 2014), and a linear layer. B batch, T steps, V vocabulary.

    Next token: (B, T) -> (B, T, V). Classes of texts: -> (B, classes), from the mean of the states of all their steps.

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
        if spec.task != "next-token" and not spec.padding:
            raise ConfigError(
                f"model rnn is for texts, their next token or their class, but the data is {spec} for {spec.task}: "
                "choose --data pydocs, or another model"
            )
        check_options(embedding=embedding, hidden=hidden, layers=layers, dropout=dropout)
        self.padding = spec.padding
        self.embedding = nn.Embedding(spec.vocabulary, embedding)
        self.gru = GRU(embedding, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, spec.outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) tokens -> logits, from a state of zeros."""
        if not self.padding:
            return self.run(tokens)[0]
        steps, _ = self.gru(self.embedding(tokens))
        return self.output(self.dropout(mean_of_real(steps, real_steps(tokens))))  # type: ignore[no-any-return]

    def run(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T) tokens and the (layers, B, hidden) state before them -> (B, T, V) logits and the state after."""
        steps, state = self.gru(self.embedding(tokens), state)  # (B, T, hidden)
        return self.output(self.dropout(steps)), state
