"""What is to be predicted: its loss, its metrics, and what an output says. B batch, K classes, T steps, V vocabulary.

A task turns a batch's output into a few tensors (`measure`), which stay on the device, and all batches'
tensors into metrics (`metrics`), which reads them once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

Measures = dict[str, Tensor]
Shape = tuple[int | str, ...]  # a size that is free has a name


@dataclass(frozen=True)
class Tables:
    """What an evaluation reports beside the metrics. metrics: more of them, which follow from the tables.

    per_class: one row per class with precision, recall, f1 and count. confusion: one row per actual class, one column
    per predicted class. Both are None for a task without classes.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    per_class: list[dict[str, Any]] | None = None
    confusion: list[list[int]] | None = None


class Task(Protocol):
    """What a training needs."""

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


class AnsweringTask(Task, Protocol):
    """A task that also says what the output of a trained model means.

    An output is what the model gives, (N, ...) float32; an answer is the output in the units of the target.
    answer_name: of an exported model's answers. judged_by: the metric by which an exported model is judged.
    table_names: the metrics that `tables` reports.
    """

    answer_name: ClassVar[str] = "logits"
    judged_by: ClassVar[str] = "accuracy"
    table_names: ClassVar[tuple[str, ...]] = ()

    def tables(self, measures: Sequence[Measures]) -> Tables:
        """What an evaluation reports beside `metrics`."""
        return Tables()

    def answers(self, output: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
        """What the output says of each sample, by name. names: of the classes or tokens; empty where they have none."""

    def probabilities(self, output: Tensor) -> Tensor | None:
        """(N, K): the probability of each class; None for a task that tells no classes apart."""
        return None

    def in_units(self, output: Tensor) -> Tensor:
        """Output -> answer."""
        return output

    def normalised(self, value: Tensor) -> Tensor:
        """A target or an answer in its own units -> as the loss takes it: the inverse of `in_units`."""
        return value

    def scores(self, answer: Tensor) -> Tensor | None:
        """(..., K): the score of each class, the highest of which is the prediction; None for real numbers."""
        return answer

    def answer_shape(self, input_shape: Shape, outputs: int) -> Shape:
        """Of one sample's answer."""
        return (outputs,)
