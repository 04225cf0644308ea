"""The task for a kind of data."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.tasks.binary import Binary
from dlcli.tasks.multiclass import Multiclass
from dlcli.tasks.next_token import NextToken
from dlcli.tasks.regression import Regression
from dlcli.tasks.task import AnsweringTask


def choose_task(
    spec: DataSpec,
    *,
    loss: str = "auto",
    label_smoothing: float = 0.0,
    target_mean: float = 0.0,
    target_std: float = 1.0,
    class_weights: tuple[float, ...] = (),
    threshold: float | str = 0.5,
    widths: Tensor | None = None,
    unknown: int | None = None,
) -> AnsweringTask:
    """The task of `spec`; ConfigError if it does not support a setting.

    class_weights: one for each class; empty for none. threshold: of two classes, or best:METRIC.
    widths, unknown: see NextToken.
    """
    own = {"regression": ("mse", "l1", "huber"), "binary": ("bce",)}.get(spec.task, ("cross-entropy",))
    if loss not in ("auto", *own):
        raise ConfigError(f"loss = {loss} does not go with {spec.task}: use {' or '.join(own)}")
    if label_smoothing and own != ("cross-entropy",):
        raise ConfigError(f"label_smoothing = {label_smoothing} needs cross-entropy, but the task is {spec.task}")
    if threshold != 0.5 and spec.task != "binary":
        raise ConfigError(f"threshold = {threshold} is for two classes, but the task is {spec.task}")
    if spec.task == "regression":
        return Regression("mse" if loss == "auto" else loss, mean=target_mean, std=target_std)
    if spec.task == "binary":
        if isinstance(threshold, str):
            return Binary(class_weights, criterion=threshold.removeprefix("best:"))
        return Binary(class_weights, threshold)
    if spec.task == "multiclass":
        return Multiclass(spec.outputs, label_smoothing, class_weights)
    return NextToken(label_smoothing, widths=widths, unknown=unknown)


# Why a metric may have no value, for messages.
UNDEFINED = {
    "auc": "not every class has samples",
    "balanced_accuracy": "all samples are of one class",
    "f1": "class 1 has no samples and is never predicted",
    "precision": "class 1 is never predicted",
    "recall": "class 1 has no samples",
    "average_precision": "class 1 has no samples",
    "mape": "a target is 0",
    "r2": "all targets are the same",
    "perplexity": "the loss is too large",
    "bits_per_char": "no character is predicted",
}


_HIGHER = (
    "accuracy", "balanced_accuracy", "top5_accuracy", "f1", "macro_f1", "precision", "recall", "auc",
    "average_precision", "r2",
)  # fmt: skip


def why_undefined(metric: str, metrics: Mapping[str, float | None]) -> str:
    """Why this one of an evaluation's metrics has no value."""
    known = metrics.get("loss") is not None and metric in UNDEFINED
    return UNDEFINED[metric] if known else "its value is not finite"


def higher_is_better(metric: str) -> bool:
    return metric.rpartition("/")[2] in _HIGHER


def default_loss(task: str) -> Literal["mse", "bce", "cross-entropy"]:
    if task == "regression":
        return "mse"
    return "bce" if task == "binary" else "cross-entropy"
