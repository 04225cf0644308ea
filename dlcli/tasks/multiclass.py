"""Multiclass classification: one logit per class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.tasks.classes import class_tables, likeliest
from dlcli.tasks.scores import calibration_error, log_sum_exp, one_against_rest
from dlcli.tasks.sums import _joined, _total
from dlcli.tasks.task import AnsweringTask, Measures, Tables
from dlcli.tasks.weights import weighted_mean

# Numbers in a vector register. With fewer classes, softmax is not vectorised unless the class axis comes first.
_LANES = 16


@dataclass(frozen=True)
class Multiclass(AnsweringTask):
    """(B, K) logits against (B,) classes. Label smoothing affects the training loss only.

    class_weights: of each class in the loss; empty for none.
    """

    classes: int
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    monitor: str = "accuracy"

    table_names = ("macro_f1", "balanced_accuracy", "auc", "log_loss", "calibration_error")

    @property
    def names(self) -> tuple[str, ...]:
        return ("loss", "accuracy", "top5_accuracy") if self.classes >= 10 else ("loss", "accuracy")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        if not self.class_weights:
            return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)
        losses = F.cross_entropy(output, target, label_smoothing=self.label_smoothing, reduction="none")
        return weighted_mean(losses, target, self.class_weights)

    def weighted(self, counts: Tensor) -> Tensor:
        return counts * torch.tensor(self.class_weights) if self.class_weights else counts

    def measure(self, output: Tensor, target: Tensor, *, whole: bool = False) -> Measures:
        output = output.float()
        if self.class_weights:
            loss = weighted_mean(F.cross_entropy(output, target, reduction="none"), target, self.class_weights)
            loss = loss * len(target)
        else:
            loss = _summed_cross_entropy(output, target)
        measures = {
            "loss": loss,
            "prediction": output.argmax(1),
            "target": target,
        }
        if self.classes >= 10:
            measures["top5"] = (output.topk(5, dim=1).indices == target[:, None]).any(1).sum()
        return measures | {"output": output} if whole else measures

    def metrics(self, measures: Sequence[Measures]) -> dict[str, float | None]:
        prediction, target = _joined(measures, "prediction"), _joined(measures, "target")
        values: dict[str, float | None] = {
            "loss": _total(measures, "loss") / len(target),
            "accuracy": (prediction == target).double().mean().item(),
        }
        if self.classes >= 10:
            values["top5_accuracy"] = _total(measures, "top5") / len(target)
        return values

    def tables(self, measures: Sequence[Measures]) -> Tables:
        prediction, target = _joined(measures, "prediction"), _joined(measures, "target")
        output = _joined(measures, "output")
        tables = class_tables(prediction, target, self.classes)
        found: dict[str, float | None] = {}
        if bool(torch.isfinite(output).all()):
            normaliser = log_sum_exp(output)
            own = output.gather(1, target[:, None])[:, 0].double()
            confidence = (output.amax(1).double() - normaliser).exp()
            found = {
                "auc": one_against_rest(output, normaliser, target),
                "log_loss": (normaliser - own).mean().item(),
                "calibration_error": calibration_error(confidence, prediction == target),
            }
        return replace(tables, metrics=dict.fromkeys(self.table_names) | tables.metrics | found)

    def per_sample(self, measures: Sequence[Measures]) -> dict[str, Tensor]:
        output = _joined(measures, "output")
        return {
            "target": _joined(measures, "target"),
            "predicted": _joined(measures, "prediction"),
            "probability": (output.amax(1).double() - log_sum_exp(output)).exp(),
        }

    def answers(self, output: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
        """The likeliest class and its probability."""
        return likeliest(self.probabilities(output), names)

    def probabilities(self, output: Tensor) -> Tensor:
        return torch.softmax(output.double(), 1)


def _summed_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """(B, K) logits against (B,) classes -> scalar."""
    if output.shape[1] >= _LANES:
        return F.cross_entropy(output, target, reduction="sum")
    return -output.t().contiguous().log_softmax(0).gather(0, target[None]).sum()
