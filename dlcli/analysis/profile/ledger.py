"""Who takes the time: at each moment one phase and one module of the model, so that the times sum to the whole."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch


class Owner(NamedTuple):
    """phase: one of training.practice.PHASES. module: its name, the model itself by the name of the model; empty for
    what is outside the model."""

    phase: str
    module: str = ""


class Ledger:
    """seconds: of each owner, summed over the steps. owner: who takes the time now; None between the steps.

    wait: waits for the device, so that its work belongs to the one that asked for it. annotating: whether each turn is
    written into the trace of torch.profiler.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds: defaultdict[Owner, float] = defaultdict(float)
        self.owner: Owner | None = None
        self.annotating = False
        self._wait = wait
        self._since = 0.0
        self._annotation: torch.profiler.record_function | None = None

    def turn(self, owner: Owner | None) -> None:
        """From now on the time belongs to `owner`."""
        if owner == self.owner:
            return
        self._wait()
        if self._annotation is not None:
            self._annotation.__exit__(None, None, None)
            self._annotation = None
        if self.owner is not None:
            self.seconds[self.owner] += time.perf_counter() - self._since
        self.owner = owner
        if self.annotating and owner is not None:
            name = f"{owner.phase}: {owner.module}" if owner.module else owner.phase
            self._annotation = torch.profiler.record_function(name)
            self._annotation.__enter__()  # type: ignore[no-untyped-call]
        self._since = time.perf_counter()
