"""What is to be predicted: its loss, its metrics, and what an output says. B batch, K classes, T steps, V vocabulary.

A task turns a batch's output into a few tensors (`measure`), which stay on the device, and all batches'
tensors into metrics (`metrics`), which reads them once.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

Measures = dict[str, Tensor]


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
