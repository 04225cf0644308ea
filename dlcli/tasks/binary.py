"""Binary classification: one logit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.tasks.classes import class_tables, likeliest
from dlcli.tasks.sums import _joined, _total
from dlcli.tasks.task import AnsweringTask, Measures, Tables


@dataclass(frozen=True)
class Binary(AnsweringTask):
    """(B, 1) logits of class 1 against (B,) labels 0 and 1."""

    monitor: str = "loss"

    table_names = ("macro_f1",)

    @property
    def names(self) -> tuple[str, ...]:
        return ("loss", "accuracy", "auc")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output.squeeze(-1), target.to(output.dtype))

    def measure(self, output: Tensor, target: Tensor) -> Measures:
        output = output.float()
        return {"loss": self.loss(output, target) * len(target), "score": output.squeeze(-1), "target": target}

    def metrics(self, measures: Sequence[Measures]) -> dict[str, float | None]:
        score, target = _joined(measures, "score"), _joined(measures, "target")
        return {
            "loss": _total(measures, "loss") / len(target),
            "accuracy": ((score > 0) == (target == 1)).double().mean().item(),
            "auc": area_under_curve(score, target == 1),
        }

    def tables(self, measures: Sequence[Measures]) -> Tables:
        return class_tables((_joined(measures, "score") > 0).long(), _joined(measures, "target"), 2)

    def answers(self, output: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
        """The likeliest class and its probability."""
        return likeliest(self.probabilities(output), names)

    def probabilities(self, output: Tensor) -> Tensor:
        positive = torch.sigmoid(output[:, 0].double())
        return torch.stack([1 - positive, positive], 1)

    def scores(self, answer: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(answer), answer], -1)


def area_under_curve(score: Tensor, positive: Tensor) -> float | None:
    """Area under the ROC curve: the probability that a positive scores higher than a negative; ties count half.

    score: (N,) real numbers. positive: (N,) bool. None if a class is absent.
    Computed as the Mann-Whitney statistic from mean ranks (Hanley and McNeil 1982).
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = torch.unique(score.double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean_rank = last - (counts.double() - 1) / 2
    ranks = float(mean_rank[inverse][positive].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)
