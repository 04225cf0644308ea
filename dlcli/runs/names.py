"""The grammar of naming runs: 42, runs/42, latest, best:accuracy, best:accuracy@digits, 40:45."""

from dataclasses import dataclass
from pathlib import Path

from dlcli.core.errors import DlcliError, RunError
from dlcli.runs.run import _NUMBER, Run, all_runs

_LONGEST_PATH = 4096

# Settings that say how data are split, but for the seed.
_SPLIT = ("val_fraction", "test_fraction")

# Runs of one data set that an error names.
_MOST_TOLD = 5


def find(text: str, root: str | Path, *, listed_by: str = "dlcli runs") -> list[Run]:
    """The runs that `42`, `runs/42`, `latest`, `best:accuracy`, `best:val/loss` or `40:45` names, in that order.

    RunError (exit 4) when there is none. best: compares the best validation metric of the runs that watched that
    metric; whether more is better was recorded with it. It does so on one data set and one way of splitting it (the
    seed, which draws the validation part, may differ): when runs differ in that, RunError unless the name says which
    are meant, as `best:accuracy@digits` or, as the runs on the data and the splits of run 7, `best:accuracy@7`.
    listed_by: the command that shows what there is, for the error.
    """
    root = Path(root)
    if text == "latest":
        runs = all_runs(root)
        if not runs:
            raise RunError(f"there are no runs in {root}: make one with `dlcli train cnn`")
        return runs[:1]
    if text.startswith("best:"):
        metric, _, place = text.removeprefix("best:").partition("@")
        return [_best(metric.removeprefix("val/"), place, root)]
    low, colon, high = text.partition(":")
    if colon and _NUMBER.fullmatch(low) and _NUMBER.fullmatch(high):
        runs = [run for run in reversed(all_runs(root)) if int(low) <= run.number <= int(high)]
        if not runs:
            raise RunError(f"there is no run from {low} to {high} in {root}: see `{listed_by}`")
        return runs
    path = root / text if _NUMBER.fullmatch(text) else Path(text)
    if not _NUMBER.fullmatch(path.name) or len(text) > _LONGEST_PATH or _climbs(path):
        raise RunError(f"{text!r} names no run: use a number, runs/NUMBER, latest, best:METRIC or FIRST:LAST")
    try:
        there = path.is_dir() and not path.is_symlink()
    except OSError:  # a name that is too long for the file system
        there = False
    if not there:
        raise RunError(f"there is no run {text} in {path.parent}: see `{listed_by}`")
    return [Run(path.parent, int(path.name))]


def find_one(text: str, root: str | Path) -> Run:
    """As `find`, for a command that takes one run."""
    runs = find(text, root)
    if len(runs) > 1:
        raise RunError(f"{text} names {len(runs)} runs, but one is wanted")
    return runs[0]


def as_run(run: Run | str | Path) -> Run:
    """A Run as it is; a text as in `find_one`, where a bare number is a run in the folder `runs`."""
    return run if isinstance(run, Run) else find_one(str(run), "runs")


@dataclass(frozen=True)
class _Candidate:
    """A run that has a best evaluation. metric: without its `val/`. score: more is better. data: the name of its data;
    ground: what must be the same where scores are compared."""

    run: Run
    metric: str
    score: float
    data: str
    ground: tuple[str, ...]


def _best(metric: str, place: str, root: Path) -> Run:
    """place: the data that are meant, or the number of a run; empty for any."""
    known = [found for run in all_runs(root) if (found := _candidate(run)) is not None]
    candidates = [found for found in known if found.metric == metric]
    if not candidates:
        watched = ", ".join(sorted({f"val/{found.metric}" for found in known}))
        raise RunError(
            f"no run in {root} has a best {metric}" + (f"; the runs here watched {watched}" if known else "")
        )
    grounds = {found.ground: found.data for found in candidates}
    if place:
        ground = _ground(find(place, root)[0]) if _NUMBER.fullmatch(place) else None
        candidates = [found for found in candidates if place == found.data or ground == found.ground]
        if not candidates:
            data = ", ".join(sorted(set(grounds.values())))
            raise RunError(f"no run in {root} has a best {metric} on {place}; those that have one are on {data}")
    if len({found.ground for found in candidates}) > 1:
        raise RunError(_mixed(metric, candidates))
    return max(candidates, key=lambda found: found.score).run  # of equal ones the newest


def _candidate(run: Run) -> _Candidate | None:
    try:
        best, ground = run.info().get("best") or {}, _ground(run)
        name, value = best.get("metric"), best.get("value")
    except (DlcliError, AttributeError):
        return None
    if not isinstance(name, str) or not isinstance(value, int | float):
        return None
    score = float(value) if best.get("higher_is_better") else -float(value)
    return _Candidate(run, name.removeprefix("val/"), score, ground[0], ground)


def _ground(run: Run) -> tuple[str, ...]:
    """The name of a run's data, their fingerprint, and how they were split."""
    info, settings = run.info(), run.settings()
    return str(info.get("data")), *map(repr, (info.get("fingerprint"), *map(settings.get, _SPLIT)))


def _mixed(metric: str, candidates: list[_Candidate]) -> str:
    groups: dict[tuple[str, ...], list[_Candidate]] = {}
    for found in sorted(candidates, key=lambda found: found.run.number):
        groups.setdefault(found.ground, []).append(found)
    first = [group[0] for group in groups.values()]
    told = [_told([found.run.number for found in group], group[0].data) for group in groups.values()]
    named = len({found.data for found in first}) == len(first)
    example = first[0].data if named else first[0].run.number
    what = "data" if named else "data or splits"
    return f"best:{metric} finds runs whose {what} differ: {', '.join(told)}; choose with best:{metric}@{example}"


def _told(numbers: list[int], data: str) -> str:
    shown = ", ".join(map(str, numbers[:_MOST_TOLD])) + (", ..." if len(numbers) > _MOST_TOLD else "")
    return f"{data} (run{'s' * (len(numbers) > 1)} {shown})"


def _climbs(path: Path) -> bool:
    """Whether `..` stands behind the name of a folder: a/../7."""
    parts = list(path.parts)
    while parts and parts[0] == "..":
        del parts[0]
    return ".." in parts
