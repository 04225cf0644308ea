"""Which settings are tried, in which order: all of them, at random, as listed, or as a sampler of Optuna suggests."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Protocol

from dlcli.sweeps.space import Axis, grid, size


class Method(Protocol):
    def suggest(self, trial: int) -> dict[str, Any] | None:
        """The settings of trial number `trial`, counted from 1; None when there are no more. Called once for each, in
        order."""

    def tell(self, trial: int, settings: Mapping[str, Any], *, loss: float | None, pruned: bool) -> None:
        """How a trial ended. loss: lower is better; None if it failed. Also called for trials of an earlier process."""


class Listed:
    """Settings in a fixed order."""

    def __init__(self, settings: Sequence[Mapping[str, Any]]) -> None:
        self._settings = settings

    def suggest(self, trial: int) -> dict[str, Any] | None:
        return dict(self._settings[trial - 1]) if trial <= len(self._settings) else None

    def tell(self, trial: int, settings: Mapping[str, Any], *, loss: float | None, pruned: bool) -> None:
        """What was found does not matter."""


def everything(axes: Sequence[Axis]) -> Listed:
    """The grid of all combinations."""
    return Listed(list(grid(axes)))


class Randomly:
    """Independent draws; of finitely many settings, each at most once (Bergstra and Bengio 2012).

    Trial k depends on the seed and on k only, so that a sweep that is resumed or extended tries what it would have.
    """

    def __init__(self, axes: Sequence[Axis], *, seed: int) -> None:
        self._axes, self._random, self._left = axes, Random(f"sweep {seed}"), size(axes)
        self._drawn: list[dict[str, Any]] = []
        self._seen: set[str] = set()

    def suggest(self, trial: int) -> dict[str, Any] | None:
        while len(self._drawn) < trial:
            if self._left is not None and len(self._seen) >= self._left:
                return None
            settings = {axis.name: axis.draw(self._random) for axis in self._axes}
            if repr(settings) not in self._seen:
                self._seen.add(repr(settings))
                self._drawn.append(settings)
        return dict(self._drawn[trial - 1])

    def tell(self, trial: int, settings: Mapping[str, Any], *, loss: float | None, pruned: bool) -> None:
        """What was found does not matter."""
