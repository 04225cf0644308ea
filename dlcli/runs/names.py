"""The ways to name runs: 42, runs/42, latest, best:accuracy, best:accuracy@digits, 40:45, 4,7, or a given name."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dlcli.core.errors import RunError
from dlcli.runs.given_names import is_name, with_name
from dlcli.runs.index import Entry
from dlcli.runs.numbers import RUN_NUMBER
from dlcli.runs.ranking import best
from dlcli.runs.run import Run, all_runs

_LONGEST_PATH = 4096


def find(
    text: str, root: str | Path, *, listed_by: str = "dlcli runs", among: Sequence[Entry] | None = None
) -> list[Run]:
    """The runs that `text` names: `42`, `runs/42`, `latest`, `best:accuracy`, `best:val/loss`, `40:45`, `4,7` or a
    given name.

    best: see `runs.ranking.best`; `best:accuracy@digits` is the best run on that data set, `best:accuracy@7` the best
    one with the data and the splits of run 7.
    listed_by: the command that lists the runs, for the error. among: what is known of the runs from which `latest`
    and best: are chosen. RunError (exit 4) if there is no such run.
    """
    root = Path(root)
    if "," in text and "/" not in text:
        listed = [run for part in text.split(",") for run in find(part, root, listed_by=listed_by, among=among)]
        return list(dict.fromkeys(listed))
    if text == "latest":
        runs = all_runs(root) if among is None else [Run(root, row["run"]) for row, _ in among]
        if not runs:
            raise RunError(f"there are no runs in {root}: make one with `dlcli train cnn`")
        return runs[:1]
    if text.startswith("best:"):
        metric, _, place = text.removeprefix("best:").partition("@")
        return [best(metric.removeprefix("val/"), root, place=place, among=among)]
    low, colon, high = text.partition(":")
    if colon and RUN_NUMBER.fullmatch(low) and RUN_NUMBER.fullmatch(high):
        runs = [run for run in reversed(all_runs(root)) if int(low) <= run.number <= int(high)]
        if not runs:
            raise RunError(f"there is no run from {low} to {high} in {root}: see `{listed_by}`")
        return runs
    path = root / text if RUN_NUMBER.fullmatch(text) or is_name(text) else Path(text)
    by_name = is_name(path.name)
    if not (by_name or RUN_NUMBER.fullmatch(path.name)) or len(text) > _LONGEST_PATH or _climbs(path):
        raise RunError(f"{text!r} names no run: use a number, runs/NUMBER, latest, best:METRIC, FIRST:LAST or a name")
    if by_name:
        return [with_name(path.name, path.parent, listed_by=listed_by)]
    try:
        there = path.is_dir() and not path.is_symlink()
    except OSError:  # a name that is too long for the file system
        there = False
    if not there:
        raise RunError(f"there is no run {text} in {path.parent}: see `{listed_by}`")
    return [Run(path.parent, int(path.name))]


def find_one(text: str, root: str | Path) -> Run:
    """The one run that `text` names, see `find`; RunError (exit 4) if it names several."""
    runs = find(text, root)
    if len(runs) > 1:
        raise RunError(f"{text} names {len(runs)} runs, but one is wanted")
    return runs[0]


def compact(numbers: Iterable[int]) -> str:
    """The numbers in the form `4,7,40:45`, which `find` reads."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][-1] == number - 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ",".join(f"{s[0]}:{s[-1]}" if len(s) > 2 else ",".join(map(str, s)) for s in spans)


def as_run(run: Run | str | Path) -> Run:
    """A Run unchanged; a text is resolved by `find_one`, with a bare number meaning a run in the folder `runs`."""
    return run if isinstance(run, Run) else find_one(str(run), "runs")


def _climbs(path: Path) -> bool:
    """Whether `..` follows the name of a folder: a/../7."""
    parts = list(path.parts)
    while parts and parts[0] == "..":
        del parts[0]
    return ".." in parts
