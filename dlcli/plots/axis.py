"""An axis: its range, its ticks, and where a value is on it."""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LARGEST, _SMALLEST = sys.float_info.max, 5e-324


@dataclass(frozen=True)
class Axis:
    """low, high: the ends, in units of the values; low < high. log: logarithmic, and then low > 0."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], *, log: bool = False) -> "Axis":
        """An axis on which all values lie; on a logarithmic one, those above 0. From 0 to 1 without values."""
        kept = [value for value in values if not log or value > 0]
        low, high = (min(kept), max(kept)) if kept else (0.1 if log else 0.0, 1.0)
        if log:
            near = math.log(high) - math.log(low) < 1e-3
            return cls(max(low / 2, _SMALLEST), min(high, _LARGEST / 2) * 2, log) if near else cls(low, high, log)
        if high / 2 - low / 2 <= max(abs(high), abs(low)) * 1e-12:
            room = abs(high) / 10 or 1.0
            return cls(max(low - room, -_LARGEST), min(high + room, _LARGEST))
        return cls(low, high)

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)  # halved: the difference may overflow

    def ticks(self, most: int = 6, *, whole: bool = False) -> list[float]:
        """Round values on the axis; of a logarithmic one powers of ten where there are at least two. whole: no others
        than whole numbers."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if last > first:
                return [10.0**power for power in range(first, last + 1, (last - first) // most + 1)]
        rough = self.high / most - self.low / most
        if rough < 1e-300:
            return [self.low, self.high]
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(step for s in _STEPS if (step := s * size) >= rough * 0.999)
        step = max(step, 1.0) if whole else step
        first = math.ceil(self.low / step - 1e-9)
        return [v for k in range(most + 2) if (v := (first + k) * step) - step * 1e-9 <= self.high]


def label(value: float) -> str:
    """A tick in at most four significant digits."""
    return f"{value + 0.0:.4g}"
