"""The course of runs, from metrics.csv: losses and metrics, or the learning rate, over steps, epochs, time or samples."""

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
    smooth: the weight of the past in an exponential mean, from 0 to below 1, corrected for its start as Adam's means
    are (Kingma and Ba 2015).
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
    columns = _X[x][1]
    kept = [Thinned() for _ in names]
    means, weights, along = [0.0] * len(names), [0.0] * len(names), 0.0
    for row in metrics.stream(run.metrics_file, [*columns, *names]):
        step = row[: len(columns)]
        if any(value is None for value in step):
            continue
        if x in ("step", "epoch"):
            along = step[0] or 0.0
        else:
            along += (step[0] or 0.0) * ((step[1] or 0.0) if x == "samples" else 1.0)
        for place, value in enumerate(row[len(columns) :]):
            if value is not None and smooth:
                means[place] = smooth * means[place] + (1 - smooth) * value
                weights[place] = smooth * weights[place] + (1 - smooth)
                value = means[place] / weights[place]
            kept[place].add(along, value)
    points = {name: thinned.points() for name, thinned in zip(names, kept, strict=True)}
    if not any(y is not None for line in points.values() for _, y in line):
        raise RunError(f"has no value of {' or '.join(names)}")
    return _Course(run, points, thinned=not all(thinned.is_whole for thinned in kept))


def _panel(title: str, courses: Sequence[_Course], *, x: str, log: bool, grouped: bool, smooth: float) -> Panel:
    lines = [*_groups(title, courses)] if grouped else [line for course in courses for line in _lines(title, course)]
    heading = f"{title}, smoothed {smooth:g}" if smooth else title
    return Panel(heading, _X[x][0], title, lines, log)


def _lines(title: str, course: _Course) -> Iterator[Line]:
    given = name_of(course.run)
    name = f"run {course.run.number}" + (f" {given}" if given else "")
    for column, points in course.points.items():
        if _bare(column) == title:
            part = column.rpartition("/")[0]
            yield Line(name, points, part=part, style=course.run.number, dashed=part == "train")


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
