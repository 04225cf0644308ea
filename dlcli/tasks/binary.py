"""Binary classification: one logit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.tasks.classes import class_tables, likeliest
from dlcli.tasks.scores import area_under_curve, average_precision, best_threshold, calibration_error
from dlcli.tasks.sums import _joined, _total
from dlcli.tasks.task import AnsweringTask, Measures, Tables
from dlcli.tasks.weights import weighted_mean


@dataclass(frozen=True)
class Binary(AnsweringTask):
    """(B, 1) logits of class 1 against (B,) labels 0 and 1.

    class_weights: of both classes in the loss; empty for none. threshold: class 1 is predicted if its probability is
    above it. criterion: the metric for which `settled` chooses the threshold; empty if it is given.
    """

    class_weights: tuple[float, ...] = ()
    threshold: float = 0.5
    criterion: str = ""
    monitor: str = "loss"

    table_names = (
        "macro_f1", "balanced_accuracy", "f1", "precision", "recall", "average_precision", "log_loss",
        "calibration_error",
    )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        return ("loss", "accuracy", "auc")

    @property
    def cut(self) -> float:
        """The logit of the threshold."""
        return math.log(self.threshold / (1 - self.threshold))

    def settled(self, measures: Sequence[Measures]) -> "Binary":
        if not self.criterion:
            return self
        found = best_threshold(_joined(measures, "score"), _joined(measures, "target") == 1, self.criterion)
        return replace(self, threshold=0.5 if found is None else found)

    def weighted(self, counts: Tensor) -> Tensor:
        return counts * torch.tensor(self.class_weights) if self.class_weights else counts

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        score, truth = output.squeeze(-1), target.to(output.dtype)
        if not self.class_weights:
            return F.binary_cross_entropy_with_logits(score, truth)
        losses = F.binary_cross_entropy_with_logits(score, truth, reduction="none")
        return weighted_mean(losses, target, self.class_weights)

    def measure(self, output: Tensor, target: Tensor, *, whole: bool = False) -> Measures:
        output = output.float()
        return {"loss": self.loss(output, target) * len(target), "score": output.squeeze(-1), "target": target}

    def metrics(self, measures: Sequence[Measures]) -> dict[str, float | None]:
        score, target = _joined(measures, "score"), _joined(measures, "target")
        return {
            "loss": _total(measures, "loss") / len(target),
            "accuracy": ((score.double() > self.cut) == (target == 1)).double().mean().item(),
            "auc": area_under_curve(score, target == 1),
        }

    def tables(self, measures: Sequence[Measures]) -> Tables:
        score, target = _joined(measures, "score").double(), _joined(measures, "target")
        tables = class_tables((score > self.cut).long(), target, 2)
        assert tables.per_class is not None
        found = {name: tables.per_class[1][name] for name in ("f1", "precision", "recall")}
        if bool(torch.isfinite(score).all()):
            found |= {
                "average_precision": average_precision(score, target == 1),
                "log_loss": F.binary_cross_entropy_with_logits(score, target.double()).item(),
                "calibration_error": calibration_error(torch.sigmoid(score), target == 1),
            }
        metrics = dict.fromkeys(self.table_names) | tables.metrics | found
        return replace(tables, metrics=metrics)

    def per_sample(self, measures: Sequence[Measures]) -> dict[str, Tensor]:
        score, target = _joined(measures, "score").double(), _joined(measures, "target")
        predicted = score > self.cut
        probability = torch.sigmoid(torch.where(predicted, score, -score))
        return {"target": target.long(), "predicted": predicted.long(), "probability": probability}

    def answers(self, output: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
        """The likeliest class and its probability."""
        return likeliest(self.probabilities(output), names, scores=self.scores(output))

    def probabilities(self, output: Tensor) -> Tensor:
        positive = torch.sigmoid(output[:, 0].double())
        return torch.stack([1 - positive, positive], 1)

    def scores(self, answer: Tensor) -> Tensor:
        score = answer.double() - self.cut
        return torch.cat([torch.zeros_like(score), score], -1)
