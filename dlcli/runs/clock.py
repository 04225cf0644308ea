"""When the rows of metrics.csv were written, which the file does not say."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


class Clock:
    """The step of the last row, and the time of each, in seconds since 1970: the start of the run and the seconds of
    training since then."""

    def __init__(self, started: str, *, log_every: Any) -> None:
        """log_every: the setting, which is not known of a damaged run."""
        self.time, self._before, self.step = datetime.fromisoformat(started).timestamp(), 0.0, 0
        self._log_every = log_every if isinstance(log_every, int) else 0

    def after(self, row: Mapping[str, float | None]) -> float:
        """The time of the next row. ValueError if it has no step."""
        (time,) = self.times({name: [value] for name, value in row.items()})
        return time

    def times(self, columns: Mapping[str, Sequence[float | None]]) -> list[float]:
        """The times of the next rows. Their `seconds` count from the last evaluation."""
        missing = [None] * max(map(len, columns.values()), default=0)
        evaluated = [any(value is not None for value in row) for row in zip(*_of(columns, "val/"), strict=True)]
        rows = zip(columns.get("step", missing), columns.get("seconds", missing), evaluated or missing, strict=True)
        return [self._next(step, seconds or 0.0, is_evaluation=bool(found)) for step, seconds, found in rows]

    def _next(self, step: float | None, seconds: float, *, is_evaluation: bool) -> float:
        """is_evaluation: whether it has values of the validation split. Without that split, an evaluation looks
        the same as a row of log_every at such a step."""
        if step is None or not 0 <= step < 2**63:
            raise ValueError(f"step = {step} in a row")
        self.time += max(0.0, seconds - self._before)
        is_extra = not is_evaluation and self._log_every > 0 and step % self._log_every == 0
        self._before = seconds if is_extra else 0.0
        self.step = int(step)
        return self.time


def _of(columns: Mapping[str, Sequence[float | None]], prefix: str) -> list[Sequence[float | None]]:
    return [values for name, values in columns.items() if name.startswith(prefix)]
