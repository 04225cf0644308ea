"""What is to be predicted: its loss, its metrics, and what an output says. B batch, K classes, T steps, V vocabulary.

A task turns a batch's output into a few tensors (`measure`), which stay on the device, and all batches'
tensors into metrics (`metrics`), which reads them once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.errors import ConfigError
from dlcli.spec import DataSpec

Measures = dict[str, Tensor]

# Numbers in a vector register. A softmax over fewer classes goes number by number, unless classes come first in memory.
_LANES = 16


class Task(Protocol):
    @property
    def monitor(self) -> str:
        """The metric that picks the best checkpoint unless the config says otherwise."""

    @property
    def names(self) -> tuple[str, ...]:
        """What `metrics` reports, in order."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The training loss, averaged: a scalar."""

    def measure(self, output: Tensor, target: Tensor) -> Measures:
        """What `metrics` needs of one batch."""

    def metrics(self, measures: Sequence[Measures]) -> dict[str, float | None]:
        """Metrics over all batches; None for one that is undefined."""


def make(
    spec: DataSpec,
    *,
    loss: str = "auto",
    label_smoothing: float = 0.0,
    target_mean: float = 0.0,
    target_std: float = 1.0,
) -> Task:
    """The task of `spec`; ConfigError when `loss` or `label_smoothing` does not belong to it."""
    own = {"regression": ("mse", "l1", "huber"), "binary": ("bce",)}.get(spec.task, ("cross-entropy",))
    if loss not in ("auto", *own):
        raise ConfigError(f"loss = {loss} does not go with {spec.task}: use {' or '.join(own)}")
    if label_smoothing and own != ("cross-entropy",):
        raise ConfigError(f"label_smoothing = {label_smoothing} needs cross-entropy, but the task is {spec.task}")
    if spec.task == "regression":
        return Regression("mse" if loss == "auto" else loss, mean=target_mean, std=target_std)
    if spec.task == "binary":
        return Binary()
    if spec.task == "multiclass":
        return Multiclass(spec.outputs, label_smoothing)
    return NextToken(label_smoothing)


def higher_is_better(metric: str) -> bool:
    return metric.rpartition("/")[2] in ("accuracy", "top5_accuracy", "macro_f1", "auc", "r2")


def default_loss(task: str) -> Literal["mse", "bce", "cross-entropy"]:
    if task == "regression":
        return "mse"
    return "bce" if task == "binary" else "cross-entropy"


@dataclass(frozen=True)
class Regression:
    """(B, 1) output against (B,) targets, both normalised by `mean` and `std` of the target.

    loss is in normalised units; mse, rmse and mae are in the target's own.
    """

    kind: str = "mse"
    mean: float = 0.0
    std: float = 1.0
    monitor: str = "loss"

    @property
    def names(self) -> tuple[str, ...]:
        return ("loss", "mse", "rmse", "mae", "r2")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        losses: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}
        return losses[self.kind](output.squeeze(-1), target)

    def measure(self, output: Tensor, target: Tensor) -> Measures:
        output = output.float()
        return {"loss": self.loss(output, target) * len(target), "prediction": output.squeeze(-1), "target": target}

    def metrics(self, measures: Sequence[Measures]) -> dict[str, float | None]:
        prediction = _joined(measures, "prediction").double() * self.std + self.mean
        target = _joined(measures, "target").double() * self.std + self.mean
        error = prediction - target
        mse = error.square().mean().item()
        spread = (target - target.mean()).square().mean().item()
        return {
            "loss": _total(measures, "loss") / len(target),
            "mse": mse,
            "rmse": math.sqrt(mse),
            "mae": error.abs().mean().item(),
            "r2": 1 - mse / spread if spread > 0 else None,
        }


@dataclass(frozen=True)
class Binary:
    """(B, 1) logits of class 1 against (B,) labels 0 and 1."""

    monitor: str = "loss"

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


@dataclass(frozen=True)
class Multiclass:
    """(B, K) logits against (B,) classes. Label smoothing is of the training loss only."""

    classes: int
    label_smoothing: float = 0.0
    monitor: str = "accuracy"

    @property
    def names(self) -> tuple[str, ...]:
        return ("loss", "accuracy", "top5_accuracy") if self.classes >= 10 else ("loss", "accuracy")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)

    def measure(self, output: Tensor, target: Tensor) -> Measures:
        output = output.float()
        measures = {
            "loss": _summed_cross_entropy(output, target),
            "prediction": output.argmax(1),
            "target": target,
        }
        if self.classes >= 10:
            measures["top5"] = (output.topk(5, dim=1).indices == target[:, None]).any(1).sum()
        return measures

    def metrics(self, measures: Sequence[Measures]) -> dict[str, float | None]:
        prediction, target = _joined(measures, "prediction"), _joined(measures, "target")
        values: dict[str, float | None] = {
            "loss": _total(measures, "loss") / len(target),
            "accuracy": (prediction == target).double().mean().item(),
        }
        if self.classes >= 10:
            values["top5_accuracy"] = _total(measures, "top5") / len(target)
        return values


@dataclass(frozen=True)
class NextToken:
    """(B, T, V) logits against (B, T) tokens: the loss is over every step."""

    label_smoothing: float = 0.0
    monitor: str = "loss"

    @property
    def names(self) -> tuple[str, ...]:
        return ("loss", "accuracy", "perplexity", "bits_per_char")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten(), label_smoothing=self.label_smoothing)

    def measure(self, output: Tensor, target: Tensor) -> Measures:
        output, target = output.flatten(0, 1).float(), target.flatten()
        return {
            "loss": F.cross_entropy(output, target, reduction="sum"),
            "correct": (output.argmax(1) == target).sum(),
            "count": torch.tensor(len(target)),
        }

    def metrics(self, measures: Sequence[Measures]) -> dict[str, float | None]:
        count = _total(measures, "count")
        loss = _total(measures, "loss") / count
        return {
            "loss": loss,
            "accuracy": _total(measures, "correct") / count,
            "perplexity": math.exp(loss) if loss < 700 else None,
            "bits_per_char": loss / math.log(2),
        }


def confusion_matrix(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """(K, K) counts: a row an actual class, a column a predicted one."""
    return (target * classes + prediction).bincount(minlength=classes * classes).view(classes, classes)


def per_class(confusion: Tensor) -> list[dict[str, Any]]:
    """Precision, recall, F1 and count of each class; None where it is 0 / 0."""
    rows = []
    for k, (row, column) in enumerate(zip(confusion.tolist(), confusion.T.tolist(), strict=True)):
        hits, actual, predicted = row[k], sum(row), sum(column)
        rows.append(
            {
                "precision": hits / predicted if predicted else None,
                "recall": hits / actual if actual else None,
                "f1": 2 * hits / (actual + predicted) if actual + predicted else None,
                "count": actual,
            }
        )
    return rows


def macro_f1(rows: Sequence[dict[str, Any]]) -> float | None:
    """Mean F1 of the classes that occur or are predicted (scikit-learn's f1_score, average="macro")."""
    scores = [row["f1"] for row in rows if row["f1"] is not None]
    return sum(scores) / len(scores) if scores else None


def area_under_curve(score: Tensor, positive: Tensor) -> float | None:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counting half.

    The Mann-Whitney statistic by mean ranks (Hanley and McNeil 1982). None when a class is absent.
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


def _summed_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """(B, K) logits against (B,) classes: a scalar."""
    if output.shape[1] >= _LANES:
        return F.cross_entropy(output, target, reduction="sum")
    return -output.t().contiguous().log_softmax(0).gather(0, target[None]).sum()


def _joined(measures: Sequence[Measures], name: str) -> Tensor:
    return torch.cat([m[name] for m in measures]).cpu()  # waits for the device; sums in float64 need the CPU


def _total(measures: Sequence[Measures], name: str) -> float:
    return float(sum(torch.stack([m[name] for m in measures]).tolist()))
