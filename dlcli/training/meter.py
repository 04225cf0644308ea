"""The sums of a training since its last evaluation, and its time."""

import time

import torch
from torch import Tensor

from dlcli.compute.ranks import Ranks

_PROGRESS_SECONDS = 0.2


class Meter:
    """loss_sum: sum of the losses of `samples` samples since the last evaluation, or of the part of them that this
    process has. It stays on the device; reading it waits for the device, and for the other processes. told_loss,
    told_samples: the part of both that extra rows (log_every) have already reported.

    Time spent in evaluations, or by the caller on their rows, does not count.
    """

    def __init__(self, device: torch.device, ranks: Ranks | None = None) -> None:
        self.ranks = Ranks() if ranks is None else ranks
        self.loss_sum = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
        self.samples = 0
        self.told_loss, self.told_samples = 0.0, 0
        self._started = self._shown = time.perf_counter()
        self._before = 0

    def start(self) -> None:
        """Start the clock. Samples trained before this call, also by another process, do not count for the speed."""
        self._started, self._before = time.perf_counter(), self.samples

    def add(self, loss: Tensor, samples: int, *, whole: int) -> None:
        """loss: the mean over the `samples` samples that this process has of a batch of `whole`, on the device."""
        if samples:
            self.loss_sum.add_(loss, alpha=samples)
        self.samples += whole

    def wants_to_show(self) -> bool:
        """Whether it is time to report progress again."""
        now = time.perf_counter()
        if now - self._shown < _PROGRESS_SECONDS:
            return False
        self._shown = now
        return True

    def times(self) -> tuple[float, float]:
        """Seconds since `start`, and samples per second in that time."""
        seconds = time.perf_counter() - self._started
        return seconds, (self.samples - self._before) / seconds

    def mean(self) -> float | None:
        """Mean loss over all samples since the last evaluation. Waits for the device."""
        return float(self.ranks.sum(self.loss_sum)) / self.samples if self.samples else None

    def mean_of_a_row(self) -> float | None:
        """Mean loss over the samples since the last row of any kind. Waits for the device."""
        loss, samples = float(self.ranks.sum(self.loss_sum)), self.samples
        mean = (loss - self.told_loss) / (samples - self.told_samples) if samples > self.told_samples else None
        self.told_loss, self.told_samples = loss, samples
        return mean

    def loss_sums(self) -> Tensor:
        """`loss_sum`, or the one of each rank (size,): a resume adds to the same numbers in the same order."""
        if self.ranks.size == 1:
            return self.loss_sum
        found = torch.zeros(self.ranks.size, dtype=torch.float64)
        found[self.ranks.rank] = self.loss_sum
        return self.ranks.sum(found)

    def restore_loss(self, stored: Tensor) -> None:
        """The inverse of `loss_sums`, also with another number of ranks."""
        if stored.dim() == 1 and len(stored) == self.ranks.size:
            stored = stored[self.ranks.rank]
        elif not self.ranks.first:
            stored = torch.zeros(())
        self.loss_sum.copy_(stored.sum())

    def reset(self) -> None:
        self.loss_sum.zero_()
        self.samples = self._before = self.told_samples = 0
        self.told_loss = 0.0
