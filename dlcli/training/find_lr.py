"""A learning rate for a training: the loss while the learning rate rises exponentially (Smith 2017, section 3.3).

The steps are those of the real loop, on the weights that the training would start from; it makes no run.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dlcli.core.errors import ConfigError, DivergedError
from dlcli.data.batches import Batch
from dlcli.experiment.build import Experiment
from dlcli.training.practice import practice
from dlcli.training.train import fit

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 160
_SMOOTH = 0.9  # weight of the past in the mean of the losses
_DIVERGED = 4.0  # the loss is so many times the lowest
# At the lowest loss a rate is already too high. Against the best of a grid a fifth was 1.3 (mlp), 0.64 (cnn), 0.46
# (rnn) and 0.6 (resnet18); a tenth 0.65, 0.32, 0.23 and 0.3; the steepest fall 0.85, 2.4, 0.02 and 0.0005. One seed
# each, short trainings, seven rates half a decade apart.
_BELOW = 5.0
_LEAST = 10  # steps, before which nothing can be said


@dataclass(frozen=True)
class Search:
    """rates, losses, smoothed: of each step. diverged: whether the loss grew, so that the ramp ended early.

    lowest: the rate at the lowest smoothed loss. steepest: where it falls fastest. suggestion: a rate to train with, a
    fifth of the lowest.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: bool

    @property
    def lowest(self) -> float:
        return self.rates[self.smoothed.index(min(self.smoothed))]

    @property
    def steepest(self) -> float:
        """Before the lowest; the slope is over the logarithm of the rate."""
        end = self.smoothed.index(min(self.smoothed))
        slopes = [b - a for a, b in zip(self.smoothed[:end], self.smoothed[1 : end + 1], strict=True)]
        return self.rates[slopes.index(min(slopes)) + 1] if slopes else self.rates[0]

    @property
    def falls_to_the_end(self) -> bool:
        """Whether the lowest loss is in the last tenth of the steps, so that higher rates may be better."""
        return self.smoothed.index(min(self.smoothed)) >= 0.9 * (len(self.smoothed) - 1)

    @property
    def suggestion(self) -> float:
        return float(f"{self.lowest / _BELOW:.1e}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "suggestion": self.suggestion, "lowest": self.lowest, "steepest": self.steepest, "diverged": self.diverged,
            "rates": self.rates, "losses": self.losses, "smoothed": self.smoothed,
        }  # fmt: skip


def find_lr(built: Experiment, *, lowest: float = LOWEST, highest: float = HIGHEST, steps: int = STEPS) -> Search:
    """Raise the learning rate from `lowest` to `highest` in so many steps, or until the loss is four times its lowest
    mean. Changes the weights of `built.model`, which is to be built anew.

    Raises ConfigError if the loss is not finite from the start, or never falls.
    """
    ramp = _Ramp(lowest, (highest / lowest) ** (1 / max(1, steps - 1)), steps)
    diverged = False
    with practice(built, ramp, steps=steps + 1) as session:
        update = session.state.update

        def at_the_rate_of_the_ramp(*, lr: float, clip_norm: float | None) -> Tensor | None:
            return update(lr=ramp.rate, clip_norm=clip_norm)

        session.state.update = at_the_rate_of_the_ramp  # type: ignore[method-assign]
        try:
            with closing(fit(session, stop=ramp.stop)) as records:
                for _ in records:
                    pass
        except DivergedError:
            diverged = True
            session.info["stop"] = "diverged"
    losses = ramp.losses[: next((n for n, loss in enumerate(ramp.losses) if not math.isfinite(loss)), None)]
    if len(losses) < _LEAST:
        raise ConfigError(
            f"the loss is no longer finite after {len(losses)} steps at a learning rate of {lowest:g}: no rate is found"
        )
    found = Search([lowest * ramp.factor**n for n in range(len(losses))], losses, smooth(losses), False)
    end = _end(found.smoothed)
    found = Search(found.rates[:end], losses[:end], found.smoothed[:end], diverged or end < steps)
    if found.smoothed.index(min(found.smoothed)) < _LEAST // 2:
        raise ConfigError(
            f"the loss never falls from {found.smoothed[0]:.4g}, at no learning rate: look at data and model"
        )
    return found


def smooth(losses: Sequence[float]) -> list[float]:
    """The exponential mean, corrected for its start (as in Adam)."""
    mean, smoothed = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
        smoothed.append(mean / (1 - _SMOOTH**number))
    return smoothed


def _end(smoothed: Sequence[float]) -> int:
    """How many of the steps come before the loss has diverged."""
    lowest = smoothed[0]
    for number, loss in enumerate(smoothed):
        lowest = min(lowest, loss)
        if number >= _LEAST and loss > _DIVERGED * lowest:
            return number + 1
    return len(smoothed)


class _Ramp:
    """An observer (see training/practice.py) that reads the loss of each step, and its learning rate."""

    def __init__(self, lowest: float, factor: float, steps: int) -> None:
        self.lowest, self.factor, self.steps = lowest, factor, steps
        self.losses: list[float] = []
        self._sum: Tensor | None = None
        self._samples = 0

    @property
    def rate(self) -> float:
        return self.lowest * self.factor ** len(self.losses)

    def turn(self, phase: str) -> None: ...

    def model(self, model: nn.Module) -> Callable[[Tensor], Any]:
        return model

    def loss(self, loss: Tensor, batch: Batch) -> None:
        part = loss.detach() * len(batch)
        self._sum = part if self._sum is None else self._sum + part
        self._samples += len(batch)

    def stop(self) -> str | None:
        """After each step: why the ramp ends."""
        assert self._sum is not None
        self.losses.append(float(self._sum) / self._samples)
        self._sum, self._samples = None, 0
        done = len(self.losses) >= self.steps or not math.isfinite(self.losses[-1])
        if done or _end(smooth(self.losses)) < len(self.losses):
            return "the ramp has ended"
        return None
