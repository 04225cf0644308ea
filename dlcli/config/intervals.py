"""Intervals of a training as people write them: 500steps, 1epoch, 30s, 2min."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from dlcli.core.errors import ConfigError

Unit = Literal["step", "epoch", "s", "min"]

_FORM = re.compile(r"([1-9][0-9]{0,8}) ?(steps?|s|min|epochs?)")
_UNITS: dict[str, Unit] = {"step": "step", "steps": "step", "epoch": "epoch", "epochs": "epoch", "s": "s", "min": "min"}


@dataclass(frozen=True)
class Interval:
    count: int
    unit: Unit

    def __str__(self) -> str:
        return f"{self.count}{self.unit}{'s' * (self.unit in ('step', 'epoch') and self.count > 1)}"

    def steps(self, steps_per_epoch: int) -> int | None:
        """The interval in optimizer steps; None for one of seconds or minutes."""
        return {"step": self.count, "epoch": self.count * steps_per_epoch}.get(self.unit)

    @property
    def seconds(self) -> float | None:
        """None for an interval of steps or epochs."""
        return {"s": float(self.count), "min": 60.0 * self.count}.get(self.unit)


def interval(value: Any, *, name: str, times: bool = True) -> Interval:
    """`500steps`, `1epoch`, `30s` or `2min` as an Interval; a plain number counts epochs.

    times: whether seconds and minutes are allowed. Raises ConfigError, naming the setting.
    """
    text = f"{value}epochs" if re.fullmatch("[0-9]{1,9}", str(value)) else str(value)
    match = _FORM.fullmatch(text)
    unit = _UNITS[match[2]] if match else None
    if match is None or unit is None or (unit in ("s", "min") and not times):
        forms = "500steps, 30s, 2min or 1epoch" if times else "250steps or 1epoch"
        raise ConfigError(f"{name} = {value!r} is not of the form {forms}")
    return Interval(int(match[1]), unit)
