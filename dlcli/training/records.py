"""What a training tells while it goes on: bars, tables and notebooks all read the same records."""

from dataclasses import dataclass

# The metrics that fit on a line; all are in metrics.csv.
_TOLD = ("loss", "accuracy", "auc", "r2", "bits_per_char")


@dataclass(frozen=True)
class Progress:
    """Where the training is, several times a second. loss: mean over the samples since the last evaluation."""

    epoch: int
    step: int
    steps: int
    loss: float | None
    samples_per_second: float


@dataclass(frozen=True)
class Row:
    """The row of an evaluation: the same values as in metrics.csv.

    epoch, step: trained when it was measured; epochs and steps are those of the whole training, epochs None where
    it was told its length in steps.
    metrics: train/loss, the mean since the last evaluation, and val/... where there is a validation split; None
    where undefined.
    seconds: of training since the last such row, without evaluation. best: whether the monitored metric is the best
    so far.
    """

    epoch: int
    epochs: int | None
    step: int
    steps: int
    metrics: dict[str, float | None]
    lr: float
    seconds: float
    samples_per_second: float
    best: bool

    @property
    def loss(self) -> float | None:
        return self.metrics["train/loss"]

    def __str__(self) -> str:
        shown = {n: v for n, v in self.metrics.items() if n.rpartition("/")[2] in _TOLD}
        values = "  ".join(f"{name} {_short(value)}" for name, value in shown.items())
        where = f"step {self.step}/{self.steps}" if self.epochs is None else f"epoch {self.epoch}/{self.epochs}"
        mark = "  best" if self.best else ""
        return f"{where}  {values}  {self.samples_per_second:,.0f} samples/s{mark}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"
