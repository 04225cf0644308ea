"""A sweep: each setting against the result, and each pair of settings, with the better trials marked."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from dlcli.core.errors import RunError
from dlcli.plots.picture import Line, Panel, Picture
from dlcli.runs.sweeps import Sweep
from dlcli.runs.trials import Trial, ranked, trials

# Pairs of settings that are drawn; there are too many of more.
_MOST_PAIRS = 10

# A positive setting whose largest value is so many times its smallest is drawn by its logarithm.
_WIDE = 30

_THIRDS = ("best third", "middle third", "worst third")


def sweep(found: Sweep) -> Picture:
    """RunError (exit 4) if no trial has finished."""
    finished = [one for one in ranked(trials(found.trials())) if one.loss is not None]
    if not finished:
        raise RunError(f"no trial of {found} has finished: there is nothing to draw")
    names = list(dict.fromkeys(name for one in finished for name in one.settings))
    metric = finished[0].runs[0].metric or "result"
    axes = {name: _Axis(name, [one.settings.get(name) for one in finished]) for name in names}
    panels = [_against_result(axes[name], finished, metric) for name in names]
    pairs = list(itertools.combinations(names, 2))
    panels += [_pair(axes[one], axes[other], finished) for one, other in pairs[:_MOST_PAIRS]]
    notes = [axis.note for axis in axes.values() if axis.note]
    if len(pairs) > _MOST_PAIRS:
        notes.append(f"of {len(pairs)} pairs of settings the first {_MOST_PAIRS} are drawn")
    return Picture(f"sweep {found.number}", panels, notes)


def parallel(found: Sweep) -> Picture:
    """Parallel coordinates (Inselberg 1985): a line for each finished trial over all settings and the result, each from
    its lowest to its highest value. RunError (exit 4) if no trial has finished."""
    finished = [one for one in ranked(trials(found.trials())) if one.loss is not None]
    if not finished:
        raise RunError(f"no trial of {found} has finished: there is nothing to draw")
    names = list(dict.fromkeys(name for one in finished for name in one.settings))
    axes = {name: _Axis(name, [one.settings.get(name) for one in finished]) for name in names}
    columns = [_shares([axes[name].place(one, name) for one in finished]) for name in names]
    columns.append(_shares([one.value.mean for one in finished if one.value is not None]))
    lines = []
    third = math.ceil(len(finished) / 3)
    for place, word in enumerate(_THIRDS):
        points: list[tuple[float, float | None]] = []
        for number in range(place * third, min(len(finished), (place + 1) * third)):
            points += [(float(x), column[number]) for x, column in enumerate(columns)]
            points.append((float(len(columns) - 1), None))  # a gap before the next trial
        if points:
            lines.append(Line(word, points, style=place + 1))
    order = ", ".join(f"{x} {axis.label}" for x, axis in enumerate(axes.values()))
    metric = finished[0].runs[0].metric or "result"
    title, bottom = f"from {order} to {len(names)} {metric}", "setting"
    return Picture(title, [Panel(title, bottom, "share of its range", lines)])


def _shares(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [0.5 if high == low else (value - low) / (high - low) for value in values]


class _Axis:
    """Where the values of a setting are drawn: numbers as they are or by their logarithm, others by their place."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        numbers = [_number(value) for value in values]
        self.label, self.note = name, ""
        self._names: list[str] = []
        known = [value for value in numbers if value is not None]
        if len(known) < len(values):
            self._names = sorted({str(value) for value in values})
            self.note = f"{name}: " + ", ".join(f"{place} is {text}" for place, text in enumerate(self._names))
        self._log = not self._names and min(known) > 0 and max(known) >= _WIDE * min(known)
        if self._log:
            self.label = f"log10 of {name}"

    def place(self, one: Trial, name: str) -> float:
        value = one.settings.get(name)
        if self._names:
            return float(self._names.index(str(value)))
        number = _number(value)
        assert number is not None
        return math.log10(number) if self._log else number


def _against_result(axis: _Axis, finished: Sequence[Trial], metric: str) -> Panel:
    name = axis.label.removeprefix("log10 of ")
    points = sorted((axis.place(one, name), one.value.mean) for one in finished if one.value is not None)
    line = Line("trials", points, style=1, joined=False)
    best = [(axis.place(finished[0], name), finished[0].value.mean)] if finished[0].value is not None else []
    return Panel(
        name, axis.label, metric, [line, Line(f"best: trial {finished[0].number}", best, style=2, joined=False)]
    )


def _pair(one: _Axis, other: _Axis, finished: Sequence[Trial]) -> Panel:
    """Trials by two settings, in thirds of their ranks."""
    names = [axis.label.removeprefix("log10 of ") for axis in (one, other)]
    third = math.ceil(len(finished) / 3)
    lines = []
    for place, word in enumerate(_THIRDS):
        part = finished[place * third : (place + 1) * third]
        points = sorted((one.place(trial, names[0]), other.place(trial, names[1])) for trial in part)
        if points:
            lines.append(Line(word, points, style=place + 1, joined=False))
    return Panel(f"{names[0]} and {names[1]}", one.label, other.label, lines)


def _number(value: Any) -> float | None:
    """Text of an option of a model is a number where it looks like one."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
