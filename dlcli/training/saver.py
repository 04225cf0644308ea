"""When a training is saved: at the interval that was asked for, and no more often than the disk deserves."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlcli.config import checkpoint_interval
from dlcli.errors import DivergedError
from dlcli.runs import Run
from dlcli.training import checkpoint
from dlcli.training.state import TrainingState

# A run of very short epochs would otherwise do little but save.
_LEAST_SECONDS = 1.0


class Saver:
    """Writes the last and the best checkpoint of a run."""

    def __init__(self, run: Run, every: str) -> None:
        self.run = run
        self.count, self.unit = checkpoint_interval(every)
        self._best: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._written = time.monotonic()
        self._first = True

    def due(self, state: TrainingState, *, epoch_done: bool) -> bool:
        """Whether to save now: after a step, or at the end of an epoch."""
        waited = time.monotonic() - self._written
        if self.unit == "epoch":
            if not epoch_done or state.epoch % self.count:
                return False
            return self._first or waited >= _LEAST_SECONDS
        if self.unit == "step":
            return not epoch_done and state.step % self.count == 0
        return waited >= self.count * (60 if self.unit == "min" else 1)

    def keep_best(self, state: TrainingState, metrics: Mapping[str, float | None]) -> None:
        """Copy the best weights, since training goes on; they are written with the next save."""
        weights = {name: t.detach().clone() for name, t in state.evaluated.state_dict().items()}
        self._best = weights, {"epoch": state.epoch, "step": state.step, "metrics": dict(metrics)}

    def write(self, state: TrainingState, *, epoch: int, metrics: Mapping[str, float | None]) -> None:
        """Save the training as it stands. epoch, metrics: of the weights, for a person and for `dlcli eval`.

        Raises DivergedError when a weight is not finite, and writes none of it.
        """
        weights = state.evaluated.state_dict()
        if not all(bool(torch.isfinite(t).all()) for t in weights.values() if t.is_floating_point()):
            raise DivergedError(f"weights are no longer finite at step {state.step}: lower lr")
        told = {"epoch": epoch, "step": state.step, "metrics": dict(metrics)}
        is_best = self._best is not None and self._best[1] == told
        # The best goes first: should the process end between the two, the training that goes on from the
        # older last one finds this best again.
        best = self.write_best()
        checkpoint.save(
            self.run.checkpoints,
            "last",
            weights=best if is_best and best else weights,
            state={**told, "training": state.values() | self.run.sizes()},
            training=state.tensors(),
        )
        self._written, self._first = time.monotonic(), False

    def write_best(self) -> Path | None:
        """Write the best weights that still wait."""
        if self._best is None:
            return None
        (weights, state), self._best = self._best, None
        return checkpoint.save(self.run.checkpoints, "best", weights=weights, state=state)
