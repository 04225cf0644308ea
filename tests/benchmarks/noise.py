"""How quiet the machine is: a fixed piece of work, timed again and again between the measurements.

A busy machine distorts a training on two threads up to a hundredfold, and not every loop alike. So a ratio is
only printed where the fixed work took nearly the same time throughout.
"""

import time
from collections.abc import Callable, Sequence

from dlcli.compute.threads import usable_cores

# Above this a round does not count.
BOUND = 1.25
_SIZE = 1200
_SECONDS = 0.02
_REPEATS = 5


class Guard:
    """noise: how much longer the slowest quarter of the fixed work took, at least, than the fast tenth of all so far.

    patience: seconds that `wait` may wait, all in all.
    """

    def __init__(
        self, *, bound: float = BOUND, patience: float = 120.0, work: Callable[[], None] | None = None
    ) -> None:
        self.bound, self.patience = bound, patience
        self._work = work or matrix_product()
        self._all: list[float] = []
        self._recent: list[float] = []

    def wait(self) -> None:
        """Until the machine is quiet, if it soon is."""
        start = time.perf_counter()
        self.probe()
        while self.take() > self.bound and time.perf_counter() - start < self.patience:
            time.sleep(1)
            self.probe()
        self.patience -= time.perf_counter() - start

    def probe(self) -> None:
        self._work()  # wakes the threads
        for _ in range(_REPEATS):
            start = time.perf_counter()
            self._work()
            self._recent.append(time.perf_counter() - start)

    def take(self) -> float:
        """The noise since it was last taken."""
        self._all += self._recent
        noise = quantile(self._recent, 0.75) / quantile(self._all, 0.1)
        self._recent.clear()
        return noise


def matrix_product(cores: int | None = None) -> Callable[[], None]:
    """3.5 GFLOP, as often as makes 20 ms of it, on every usable core."""
    import torch

    cores = cores or usable_cores()
    a, b = torch.rand(_SIZE, _SIZE), torch.rand(_SIZE, _SIZE)
    times = 1

    def work() -> None:
        torch.set_num_threads(cores)
        for _ in range(times):
            torch.mm(a, b)

    work()
    start = time.perf_counter()
    work()
    times = max(1, round(_SECONDS / (time.perf_counter() - start)))
    return work


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]
