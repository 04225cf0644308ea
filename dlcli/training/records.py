"""What a training reports while it runs: progress bars, tables and notebooks read the same records."""

from dataclasses import dataclass

# The metrics that a line shows, the most important first; metrics.csv has all of them.
_TOLD = ("val/accuracy", "val/r2", "val/bits_per_char", "val/loss", "train/loss")
_TOLD_WHERE_THERE_IS_ROOM = ("val/auc",)

_LINE = 80


@dataclass(frozen=True)
class Progress:
    """The position of the training, several times per second. loss: mean over the samples since the last evaluation."""

    epoch: int
    step: int
    steps: int
    loss: float | None
    samples_per_second: float


@dataclass(frozen=True)
class Row:
    """The row of one evaluation, with the same values as in metrics.csv.

    epoch, step: of the evaluation. epochs, steps: of the whole training; epochs is None if its length was given in
    steps.
    metrics: train/loss, the mean since the last evaluation, and val/... if there is a validation split. An undefined
    metric is None.
    seconds: of training since the last such row, without evaluation. best: whether the monitored metric is the best
    so far. warnings: sentences about what this evaluation shows.
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
    warnings: tuple[str, ...] = ()

    @property
    def loss(self) -> float | None:
        return self.metrics["train/loss"]

    def __str__(self) -> str:
        """A line of at most 80 characters; the least important values are left out if they do not fit."""
        where = f"step {self.step}/{self.steps}" if self.epochs is None else f"epoch {self.epoch}/{self.epochs}"
        parts = {name: f"{name.removeprefix('train/')} {_short(value)}" for name, value in self.metrics.items()}
        parts["speed"] = f"{self.samples_per_second:,.0f}/s"
        room = _LINE - len(where) - len("  best")
        told = []
        for name in (*_TOLD, "speed", *_TOLD_WHERE_THERE_IS_ROOM):
            if name in parts and room >= len(parts[name]) + 2:
                told.append(name)
                room -= len(parts[name]) + 2
        shown = [text for name, text in parts.items() if name in told]
        return "  ".join([where, *shown, *["best"] * self.best])


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"
