"""The time of the steps of a training, without the search for values that are not finite, which only the first have."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.compute.devices import waiting
from dlcli.data.batches import Batch


class StepClock:
    """The clock of one step after the other. left_out: seconds of this step that do not count."""

    def __init__(self, device: torch.device) -> None:
        self._wait = waiting(device)
        self._start = self._checks = 0.0
        self.left_out = 0.0

    def start(self) -> None:
        self.left_out = self._checks = 0.0
        self._wait()
        self._start = time.perf_counter()

    def turn(self, phase: str) -> None:
        """See training/practice.py."""
        if phase == "checks":
            self._wait()
            self._checks = time.perf_counter()
        elif self._checks:
            self.left_out += time.perf_counter() - self._checks
            self._checks = 0.0

    def end(self) -> float:
        """Seconds of the step."""
        self._wait()
        return time.perf_counter() - self._start - self.left_out


class Timer:
    """An observer (see training/practice.py) that times steps. times: samples and seconds of each since `begin`."""

    def __init__(self, device: torch.device) -> None:
        self.times: list[tuple[int, float]] = []
        self._clock = StepClock(device)
        self._within = False
        self._samples = self._wanted = 0

    def begin(self, steps: int) -> None:
        """`stop` ends the training after this many steps."""
        self.times.clear()
        self._wanted = steps

    def turn(self, phase: str) -> None:
        if not self._within:
            self._within, self._samples = True, 0
            self._clock.start()
        self._clock.turn(phase)

    def model(self, model: nn.Module) -> Callable[[Tensor], Any]:
        return model

    def loss(self, loss: Tensor, batch: Batch) -> None:
        self._samples += len(batch)

    def stop(self) -> str | None:
        """For `fit`."""
        self.times.append((self._samples, self._clock.end()))
        self._within = False
        return "all steps are measured" if len(self.times) >= self._wanted else None
