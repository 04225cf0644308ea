"""The course of runs, from metrics.csv: losses and metrics, or learning rates, over steps, epochs, time or samples."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlcli.core.errors import ConfigError, DlcliError, RunError, did_you_mean
from dlcli.plots.picture import Line, Panel, Picture, Point
from dlcli.plots.seeds import mean_and_band
from dlcli.plots.thinning import Thinned
from dlcli.runs import metrics
from dlcli.runs.compare import Result, group_by_config
from dlcli.runs.given_names import name_of
from dlcli.runs.run import Run

MOST = 50  # runs in one picture

# What x is: its label, and the columns of metrics.csv that it needs.
_X = {
    "step": ("step", ["step"]),
    "epoch": ("epoch", ["epoch"]),
    "time": ("seconds of training", ["seconds"]),
    "samples": ("samples seen", ["seconds", "samples_per_second"]),
}


@dataclass(frozen=True)
class _Course:
    """A run and its points by column; thinned: whether not all rows are among them."""

    run: Run
    points: dict[str, list[Point]]
    thinned: bool


def curves(
    runs: Sequence[Run],
    *,
    what: str = "curves",
    metric: str | None = None,
    x: str = "epoch",
    log: bool = False,
    smooth: float = 0.0,
    grouped: bool = False,
) -> Picture:
    """The losses and the metric that chose the best checkpoint (`curves`), or the learning rate (`lr`), of each run.

    metric: drawn instead of these: `accuracy`, `val/loss`. x: step, epoch, time or samples. log: of the y axis.
    smooth: the weight of the past in an exponential mean, from 0 to below 1.
    grouped: runs with equal settings apart from the seed become their mean, with a band of one standard deviation.
    ConfigError (exit 2) for more than 50 lines; RunError (exit 4) if no run has what is to be drawn.
    """
    if not grouped and len(runs) > MOST:
        raise ConfigError(
            f"{len(runs)} runs are too many for one picture: name at most {MOST}, or add --group-by config"
        )
    notes: list[str] = []
    found: list[_Course] = []
    known: dict[str, None] = {}
    for run in runs:
        try:
            run.info()
            there = metrics.columns(run.metrics_file)
            known |= dict.fromkeys(name for name in there if "/" in name)
            wanted = _wanted(run, there, what, metric)
            found.append(_course(run, wanted, x=x, smooth=smooth))
        except DlcliError as error:
            notes.append(f"left out: {run} {error}" if str(run) not in str(error) else f"left out: {error}")
    if not found:
        hint = f" ({did_you_mean(metric, known)})" if metric and known else ""
        raise RunError("; ".join(notes[:5]).replace("left out: ", "") + hint)
    titles = list(dict.fromkeys(_bare(column) for course in found for column in course.points))
    panels = [_panel(title, found, x=x, log=log, grouped=grouped, smooth=smooth) for title in titles]
    if any(len(panel.lines) > 2 * MOST for panel in panels):
        raise ConfigError(f"there are more than {MOST} groups: name fewer runs")
    if any(course.thinned for course in found):
        notes.append("of long runs only the lowest and highest values of many short intervals are drawn")
    if log and any(y is not None and y <= 0 for c in found for points in c.points.values() for _, y in points):
        notes.append("values that are not above 0 are not on a logarithmic axis")
    return Picture("learning rate" if what == "lr" else "curves", panels, notes)


def run_name(run: Run) -> str:
    """As in legends: the number, and the name if it has one."""
    given = name_of(run)
    return f"run {run.number}" + (f" {given}" if given else "")


def _wanted(run: Run, there: Sequence[str], what: str, metric: str | None) -> list[str]:
    if what == "lr":
        names = ["lr"]
    elif metric is not None:
        names = [metric] if "/" in metric else [f"train/{metric}", f"val/{metric}"]
    else:
        chosen = str((run.info().get("best") or {}).get("metric") or "loss")
        names = ["train/loss", "val/loss", chosen if "/" in chosen else f"val/{chosen}"]
    wanted = [name for name in dict.fromkeys(names) if name in there]
    if not wanted:
        raise RunError("has no rows yet" if not there else f"has no {metric or what}")
    return wanted


def _course(run: Run, names: Sequence[str], *, x: str, smooth: float) -> _Course:
    along = _X[x][1]
    kept, smoothed, end = [Thinned() for _ in names], [_Smoothed(smooth) for _ in names], 0.0
    for block in metrics.stream(run.metrics_file, [*along, *names]):
        places, columns = block[: len(along)], block[len(along) :]
        if x in ("step", "epoch"):
            xs = places[0]
        else:
            xs = _summed(places, end)
            end = next((place for place in reversed(xs) if place is not None), end)
        for thinned, mean, column in zip(kept, smoothed, columns, strict=True):
            ys = map(mean.add, column) if smooth else column
            thinned.add([(place, y) for place, y in zip(xs, ys, strict=True) if place is not None])
    points = {name: thinned.points() for name, thinned in zip(names, kept, strict=True)}
    if not any(y is not None for line in points.values() for _, y in line):
        raise RunError(f"has no value of {' or '.join(names)}")
    return _Course(run, points, thinned=not all(thinned.is_whole for thinned in kept))


def _summed(columns: Sequence[Sequence[float | None]], start: float) -> list[float | None]:
    """The sum up to each row, from `start`, of the products of its values; None for a row that lacks one."""
    found: list[float | None] = []
    for row in zip(*columns, strict=True):
        known = [value for value in row if value is not None]
        if len(known) == len(row):
            start += math.prod(known)
        found.append(start if len(known) == len(row) else None)
    return found


class _Smoothed:
    """An exponential mean, corrected for its start as Adam's means are (Kingma and Ba 2015)."""

    def __init__(self, weight: float) -> None:
        self._weight, self._mean, self._sum = weight, 0.0, 0.0

    def add(self, value: float | None) -> float | None:
        """The mean after this value; a gap stays one."""
        if value is None:
            return None
        self._mean = self._weight * self._mean + (1 - self._weight) * value
        self._sum = self._weight * self._sum + (1 - self._weight)
        return self._mean / self._sum


def _panel(title: str, courses: Sequence[_Course], *, x: str, log: bool, grouped: bool, smooth: float) -> Panel:
    lines = [*_groups(title, courses)] if grouped else [line for course in courses for line in _lines(title, course)]
    heading = f"{title}, smoothed {smooth:g}" if smooth else title
    return Panel(heading, _X[x][0], title, lines, log)


def _lines(title: str, course: _Course) -> Iterator[Line]:
    for column, points in course.points.items():
        if _bare(column) == title:
            part = column.rpartition("/")[0]
            yield Line(run_name(course.run), points, part=part, style=course.run.number, dashed=part == "train")


def _groups(title: str, courses: Sequence[_Course]) -> Iterator[Line]:
    settings = {course.run: course.run.settings() for course in courses}
    results = [Result(run, of.get("seed"), of, None) for run, of in settings.items()]
    for number, group in enumerate(group_by_config(results, first=[]), 1):
        members = {result.run for result in group.results}
        inside = [course for course in courses if course.run in members]
        for column in dict.fromkeys(c for course in inside for c in course.points if _bare(c) == title):
            mean, band = mean_and_band([course.points[column] for course in inside if column in course.points])
            part = column.rpartition("/")[0]
            name = f"{group.name} (n = {len(inside)})"
            yield Line(name, mean, part=part, style=number, dashed=part == "train", band=band)


def _bare(column: str) -> str:
    """val/loss and train/loss share the panel `loss`."""
    return column.rpartition("/")[2]
