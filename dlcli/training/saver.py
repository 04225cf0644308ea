"""Saves checkpoints at the chosen interval; at epoch ends, at most once per second.

Training only waits until its state is copied. A thread serialises, writes and flushes the copy; one save at a time.
"""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlcli.checkpoints import checkpoint
from dlcli.config.intervals import interval
from dlcli.core.errors import DivergedError
from dlcli.runs.run import Run
from dlcli.training.state import TrainingState

# Otherwise a run with very short epochs would spend most of its time saving.
_LEAST_SECONDS = 1.0


class Saver:
    """Writes the last and the best checkpoint of a run, and keeps the `keep_last` newest of the former.

    writes: False for a process that only takes part in the training: it gives what it has of the state.
    """

    def __init__(self, run: Run, *, every: str, keep_last: int, writes: bool = True) -> None:
        self.run = run
        self.writes = writes
        self.keep_last = keep_last
        self.every = interval(every, name="checkpoint_every")
        self._best: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._written = time.monotonic()
        self._first = True
        self.saved_at: int | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def ready(self) -> bool:
        """Whether enough time has gone by since the last save."""
        waited = time.monotonic() - self._written
        if self.every.unit == "epoch":
            return self._first or waited >= _LEAST_SECONDS
        return self.every.unit == "step" or waited >= (self.every.seconds or 0.0)

    def due(self, state: TrainingState, *, ready: bool) -> bool:
        """Whether to save now. Called after a step. ready: see the method."""
        if state.step == self.saved_at:
            return False
        if self.every.unit == "epoch":
            return ready and state.at_epoch_end and state.epoch % self.every.count == 0
        if self.every.unit == "step":
            return state.step % self.every.count == 0
        return ready

    def keep_best(self, state: TrainingState, metrics: Mapping[str, float | None]) -> None:
        """Copy the best weights, since training continues; they are written with the next save."""
        weights = state.weights(kept=self.writes)
        if not self.writes:
            return
        self._best = _copies(weights), {"epoch": state.epoch, "step": state.step, "metrics": dict(metrics)}

    def write(
        self,
        state: TrainingState,
        *,
        metrics: Mapping[str, float | None],
        info: Mapping[str, Any],
    ) -> None:
        """Save the current state in the background; it is on the disk when `wait` returns.

        metrics: of these weights, if they were measured; they are stored with them. info: for run.json, which is
        written after the checkpoint, so that it never mentions an evaluation without one.
        Raises DivergedError, and writes nothing, if a value is not finite; raises the error of the previous save, if
        it failed.
        """
        tensors, weights = state.tensors(kept=self.writes), state.weights(kept=self.writes)
        floating = [t for t in (*weights.values(), *tensors.values()) if t.is_floating_point()]
        if not bool(torch.stack([torch.isfinite(t).all() for t in floating]).all()):
            raise DivergedError(f"the weights are no longer finite at step {state.step}: lower lr or set clip_norm")
        if not self.writes:
            self._written, self._first, self.saved_at = time.monotonic(), False, state.step
            return
        told = {"epoch": state.epoch, "step": state.step, "metrics": dict(metrics)}
        best, self._best = self._best, None
        same = best is not None and best[1] == told
        self._in_background(
            best=best,
            weights=None if same else _copies(weights),
            state={**told, "training": state.values() | self.run.sizes()},
            training=_copies(tensors),
            info=dict(info),
        )
        self._written, self._first, self.saved_at = time.monotonic(), False, state.step

    def write_first(self, state: TrainingState, *, info: Mapping[str, Any]) -> None:
        """Save the weights that a training starts from, so that it never needs their file again. Waits for the disk."""
        self.write(state, metrics={}, info=info)
        self.wait()
        self._first = True

    def wait(self) -> None:
        """Wait until the last save is on the disk; raises its error, if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """Wait, and write the best weights if they have not been saved yet."""
        self.wait()
        if self._best is not None:
            (weights, state), self._best = self._best, None
            checkpoint.save(self.run.checkpoints, "best", weights=weights, state=state)

    def _in_background(self, **contents: Any) -> None:
        self.wait()
        # A daemon thread does not delay the exit of a process that must stop at once; a partial save has no name yet.
        self._thread = threading.Thread(target=self._keep_failure, args=(self._save, contents), daemon=True)
        self._thread.start()

    def _keep_failure(self, save: Callable[..., None], contents: dict[str, Any]) -> None:
        try:
            save(**contents)
        except BaseException as failure:
            self._failure = failure

    def _save(
        self,
        *,
        best: tuple[dict[str, Tensor], dict[str, Any]] | None,
        weights: dict[str, Tensor] | None,
        state: dict[str, Any],
        training: dict[str, Tensor],
        info: dict[str, Any],
    ) -> None:
        """weights: None if they are those of `best`; then that file is linked instead of written again."""
        folder = self.run.checkpoints
        source: Mapping[str, Tensor] | Path = weights or {}
        # The best is written first: if the process ends before the last one is written, a resume from the older last
        # checkpoint arrives at the same best again.
        if best is not None:
            path = checkpoint.save(folder, "best", weights=best[0], state=best[1])
            source = path if weights is None else source
        last = checkpoint.save(folder, "last", weights=source, state=state, training=training)
        self.run.write_info(info)
        checkpoint.retain(folder, last, keep_last=self.keep_last)


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, contiguous."""
    return {name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, t in tensors.items()}
