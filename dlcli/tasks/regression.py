"""Regression: one real number."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dlcli.tasks.sums import _joined, _total
from dlcli.tasks.task import AnsweringTask, Measures, Tables

# A target of 0 that was normalised in float32, and back, is off by so much of the mean.
_EPS = 2.0**-23


@dataclass(frozen=True)
class Regression(AnsweringTask):
    """(B, 1) output against (B,) targets, both normalised with the target's `mean` and `std`.

    kind: mse, l1 or huber. The loss is in normalised units; mse, rmse and mae are in the target's units.
    """

    kind: str = "mse"
    mean: float = 0.0
    std: float = 1.0
    monitor: str = "loss"

    answer_name = "value"
    judged_by = "r2"
    table_names = ("mape",)

    @property
    def names(self) -> tuple[str, ...]:
        return ("loss", "mse", "rmse", "mae", "r2")

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        losses: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}
        return losses[self.kind](output.squeeze(-1), target)

    def measure(self, output: Tensor, target: Tensor, *, whole: bool = False) -> Measures:
        output = output.float()
        return {"loss": self.loss(output, target) * len(target), "prediction": output.squeeze(-1), "target": target}

    def metrics(self, measures: Sequence[Measures]) -> dict[str, float | None]:
        prediction = self.in_units(_joined(measures, "prediction"))
        target = self.in_units(_joined(measures, "target"))
        error = prediction - target
        mse = error.square().mean().item()
        spread = (target - target.mean()).square().mean().item()
        varies = bool(target.min() < target.max())  # the mean of equal targets is rounded
        return {
            "loss": _total(measures, "loss") / len(target),
            "mse": mse,
            "rmse": math.sqrt(mse),
            "mae": error.abs().mean().item(),
            "r2": 1 - mse / spread if varies else None,
        }

    def tables(self, measures: Sequence[Measures]) -> Tables:
        target = self.in_units(_joined(measures, "target"))
        error = self.in_units(_joined(measures, "prediction")) - target
        zero = bool((target.abs() <= abs(self.mean) * _EPS).any())
        mape = None if zero else (error / target).abs().mean().item()
        return Tables({"mape": mape})

    def per_sample(self, measures: Sequence[Measures]) -> dict[str, Tensor]:
        return {
            "target": self.in_units(_joined(measures, "target")),
            "predicted": self.in_units(_joined(measures, "prediction")),
        }

    def answers(self, output: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
        """The value in the target's units."""
        return [{"value": value} for value in self.in_units(output)[:, 0].tolist()]

    def in_units(self, output: Tensor) -> Tensor:
        return output.double() * self.std + self.mean

    def normalised(self, value: Tensor) -> Tensor:
        return (value - self.mean) / self.std

    def scores(self, answer: Tensor) -> None:
        return None
