"""What is predicted: its loss, its metrics, and what an output means. B batch, K classes, T steps, V vocabulary.

A task turns the output for each batch into a few tensors (`measure`), which stay on the device, and finally the tensors
of all batches into metrics (`metrics`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

Measures = dict[str, Tensor]
Shape = tuple[int | str, ...]  # a variable size is a name


@dataclass(frozen=True)
class Tables:
    """What an evaluation reports besides the metrics.

    metrics: further metrics. per_class: one row per class with precision, recall, f1 and
    count. confusion: one row per actual class, one column per predicted class. The last two are None for a task without
    classes.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    per_class: list[dict[str, Any]] | None = None
    confusion: list[list[int]] | None = None


class Task(Protocol):
    """What a training needs."""

    @property
    def monitor(self) -> str:
        """The metric that determines the best checkpoint unless the config names another."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the metrics that `metrics` returns, in order."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The training loss, averaged over the batch: a scalar."""

    def measure(self, output: Tensor, target: Tensor, *, whole: bool = False) -> Measures:
        """The tensors of one batch from which `metrics` is computed; `whole`: those that `tables` needs, too."""

    def metrics(self, measures: Sequence[Measures]) -> dict[str, float | None]:
        """Metrics over all batches; None for one that is undefined."""


class AnsweringTask(Task, Protocol):
    """A task that also interprets the output of a trained model.

    The output is what the model returns, (N, ...) float32; an answer is the output in the units of the target.
    answer_name: name of the output of an exported model. judged_by: the metric by which an exported model is compared
    with the original. table_names: the metrics that `tables` computes.
    """

    answer_name: ClassVar[str] = "logits"
    judged_by: ClassVar[str] = "accuracy"
    table_names: ClassVar[tuple[str, ...]] = ()

    @property
    def threshold(self) -> float | None:
        """The probability above which class 1 is predicted; None unless there are two classes."""
        return None

    def settled(self, measures: Sequence[Measures]) -> "AnsweringTask":
        """The task with the threshold that suits these measures best, if it is one that chooses it."""
        return self

    def weighted(self, counts: Tensor) -> Tensor:
        """Counts of the classes (K,), as the loss weighs them."""
        return counts

    def tables(self, measures: Sequence[Measures]) -> Tables:
        """What an evaluation reports besides `metrics`, from `whole` measures."""
        return Tables()

    def per_sample(self, measures: Sequence[Measures]) -> dict[str, Tensor]:
        """`target` and `predicted` of each sample, (N,), and for classes the `probability` of the predicted one, from
        `whole` measures. Empty if a sample has more than one answer."""
        return {}

    def answers(self, output: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
        """One dict per sample: name -> value. names: of the classes or tokens; empty if they have none."""

    def probabilities(self, output: Tensor) -> Tensor | None:
        """(N, K): the probability of each class; None for a task without classes."""
        return None

    def in_units(self, output: Tensor) -> Tensor:
        """Output -> answer."""
        return output

    def normalised(self, value: Tensor) -> Tensor:
        """Target or answer -> normalised, as the loss expects it: the inverse of `in_units`."""
        return value

    def scores(self, answer: Tensor) -> Tensor | None:
        """(..., K): the score of each class; the highest is the prediction. None for a regression."""
        return answer

    def answer_shape(self, input_shape: Shape, outputs: int) -> Shape:
        """The shape of the answer for one sample."""
        return (outputs,)
