"""Watches a training: the mean loss, and whether the loss and the gradient are still finite.

The losses of the steps stay on the device, and `look` waits for them. The loop calls it when it reports or saves
something, and after each of the first steps, since most trainings that diverge do so early.
"""

from typing import Any

import torch
from torch import Tensor

from dlcli.core.errors import DivergedError
from dlcli.data import batches
from dlcli.experiment.build import Experiment
from dlcli.training.state import TrainingState

_EARLY_STEPS = 50
_TOLD_SAMPLES = 8


class Watch:
    """norm: of the gradient of the last step, before clipping; None if clipping has not computed it."""

    def __init__(self, built: Experiment) -> None:
        self.built = built
        self.norm: Tensor | None = None
        self._unseen: list[tuple[int, int, int, Tensor]] = []
        self._looks_until: int | None = None
        self._last_norm: tuple[int, float] | None = None

    def add(self, state: TrainingState, batch: int, loss: Tensor) -> None:
        """Store the loss of a batch of the coming step, without reading it."""
        self._unseen.append((state.epoch, batch, state.step + 1, loss))

    def wants_a_look(self, state: TrainingState) -> bool:
        """Whether this process is still in its first steps."""
        if self._looks_until is None:
            self._looks_until = state.step + _EARLY_STEPS
        return state.step < self._looks_until

    def look(self, state: TrainingState) -> float | None:
        """Mean loss over the samples since the last evaluation. Waits for the device.

        Raises DivergedError, which names step, batch and samples, if a loss since the last look or the last gradient
        is not finite.
        """
        mean = state.meter.mean()
        if mean is not None and not abs(mean) < float("inf"):
            raise self._diverged("loss", mean, *self._first_of_all(state), state)
        self._check_gradient(state)
        self._unseen.clear()
        return mean

    def _check_gradient(self, state: TrainingState) -> None:
        if state.scaler is not None:
            # A step whose scaled gradient overflows is skipped and the scale halved. If that does not end, it diverged.
            if state.scaler.get_scale() < 1e-4:
                raise self._diverged("gradient", float("inf"), *self._last_place(state), state)
            return
        found = self.norm if self.norm is not None else state.optimizer.gradient_norm()
        if found is None:
            return
        norm = float(found)
        if not norm < float("inf"):
            raise self._diverged("gradient", norm, *self._last_place(state), state)
        self._last_norm = state.step, norm

    def _first_of_all(self, state: TrainingState) -> tuple[int, int, int]:
        """The first loss that is not finite, in the process that has it."""
        epoch, batch, step = min(self.built.ranks.gather(self._first_bad(state)), key=lambda place: place[2])
        return epoch, batch, step

    def _first_bad(self, state: TrainingState) -> tuple[int, int, int]:
        for epoch, batch, step, loss in self._unseen:
            if not bool(torch.isfinite(loss)):
                return epoch, batch, step
        return self._last_place(state)

    def _last_place(self, state: TrainingState) -> tuple[int, int, int]:
        return self._unseen[-1][:3] if self._unseen else (state.epoch, max(0, state.batch - 1), state.step)

    def _diverged(
        self, what: str, value: float, epoch: int, batch: int, step: int, state: TrainingState
    ) -> DivergedError:
        size, train = self.built.batch_size, self.built.dataset.train
        order = batches.epoch_order(train, seed=self.built.config.seed, epoch=epoch)
        samples = order[batches.positions(batch, size, count=self.built.batches_per_epoch)].tolist()
        more = len(samples) - _TOLD_SAMPLES
        told = ", ".join(map(str, samples[:_TOLD_SAMPLES])) + (f" and {more} more" if more > 0 else "")
        details: dict[str, Any] = {"what": what, "epoch": epoch, "batch": batch, "step": step, "lr": state.lr}
        norm = "unknown"
        if self._last_norm is not None:
            details |= {"gradient_norm": self._last_norm[1], "gradient_norm_step": self._last_norm[0]}
            norm = f"{self._last_norm[1]:.4g} at step {self._last_norm[0]}"
        return DivergedError(
            f"the {what} became {value} at step {step} (epoch {epoch}, lr {state.lr:g}, gradient norm {norm}; batch "
            f"{batch} with samples {told}): lower lr or set clip_norm",
            **details,
            samples=samples if size < len(train) else "all",
        )
