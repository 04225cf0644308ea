"""Next-token prediction: one logit per token of the vocabulary, at every step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.tasks.sums import _total
from dlcli.tasks.task import AnsweringTask, Measures, Shape

UNICODE = 0x110000  # characters


@dataclass(frozen=True)
class NextToken(AnsweringTask):
    """(B, T, V) logits against (B, T) tokens. The loss is averaged over all steps.

    widths: int64 (V,), the characters that each token stands for; None if each is one character. Bits per character are
    the information content of all targets over the number of their characters (Mielke 2019, Can you compare perplexity
    across different segmentations?), so that models with other tokens can be compared by them. unknown: the token that
    stands for all characters that have none; which one it is costs as many bits as naming it among all of Unicode.
    """

    label_smoothing: float = 0.0
    widths: Tensor | None = None
    unknown: int | None = None
    monitor: str = "loss"

    @property
    def names(self) -> tuple[str, ...]:
        return ("loss", "accuracy", "perplexity", "bits_per_char")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten(), label_smoothing=self.label_smoothing)

    def measure(self, output: Tensor, target: Tensor, *, whole: bool = False) -> Measures:
        output, target = output.flatten(0, 1).float(), target.flatten()
        return {
            "loss": F.cross_entropy(output, target, reduction="sum"),
            "correct": (output.argmax(1) == target).sum(),
            "count": torch.tensor(len(target)),
            **({} if self.widths is None else {"characters": self.widths.to(target.device)[target].sum()}),
            **({} if self.unknown is None else {"unknown": (target == self.unknown).sum()}),
        }

    def metrics(self, measures: Sequence[Measures]) -> dict[str, float | None]:
        count = _total(measures, "count")
        total = _total(measures, "loss")
        loss, characters = total / count, count if self.widths is None else _total(measures, "characters")
        bits = total / math.log(2)
        if self.unknown is not None:
            bits += _total(measures, "unknown") * math.log2(UNICODE)
        return {
            "loss": loss,
            "accuracy": _total(measures, "correct") / count,
            "perplexity": math.exp(loss) if loss < 700 else None,
            "bits_per_char": bits / characters if characters else None,
        }

    def answers(self, output: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
        """The likeliest token after the last step."""
        return [{"next": names[token]} for token in output[:, -1].argmax(-1).tolist()]

    def answer_shape(self, input_shape: Shape, outputs: int) -> Shape:
        return (*input_shape, outputs)
