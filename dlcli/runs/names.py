"""The grammar of naming runs: 42, runs/42, latest, best:accuracy, 40:45, or the name that a run was given.

A given name is the only line of runs/42/name.txt. No two runs of a folder have the same, those in the trash included.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dlcli.core.errors import ConfigError, DlcliError, RunError, did_you_mean, nearest
from dlcli.core.files import make_folder, write_bytes
from dlcli.core.reading import read_bytes
from dlcli.runs.run import _NUMBER, TRASH, Run, all_runs

_LONGEST_PATH = 4096

# A name that can be given. It has no colon or comma, and no digit first, so that it is nothing else of the grammar.
_NAME = re.compile("(?!(?:latest|best)$)[a-z][a-z0-9_.-]{0,63}", re.I)

_NAME_FILE = "name.txt"


def find(text: str, root: str | Path, *, listed_by: str = "dlcli runs") -> list[Run]:
    """The runs that `42`, `runs/42`, `latest`, `best:accuracy`, `best:val/loss`, `40:45` or a given name names.

    RunError (exit 4) when there is none. best: looks at the best validation metric of finished runs that
    watched that metric; whether more is better was recorded with it.
    listed_by: the command that shows what there is, for the error.
    """
    root = Path(root)
    if text == "latest":
        runs = all_runs(root)
        if not runs:
            raise RunError(f"there are no runs in {root}: make one with `dlcli train cnn`")
        return runs[:1]
    if text.startswith("best:"):
        return [_best(text.removeprefix("best:").removeprefix("val/"), root)]
    low, colon, high = text.partition(":")
    if colon and _NUMBER.fullmatch(low) and _NUMBER.fullmatch(high):
        runs = [run for run in reversed(all_runs(root)) if int(low) <= run.number <= int(high)]
        if not runs:
            raise RunError(f"there is no run from {low} to {high} in {root}: see `{listed_by}`")
        return runs
    path = root / text if _NUMBER.fullmatch(text) or is_name(text) else Path(text)
    by_name = is_name(path.name)
    if not (by_name or _NUMBER.fullmatch(path.name)) or len(text) > _LONGEST_PATH or _climbs(path):
        raise RunError(f"{text!r} names no run: use a number, runs/NUMBER, latest, best:METRIC, FIRST:LAST or a name")
    if by_name:
        return [_named(path.name, path.parent, listed_by)]
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


def is_name(text: str) -> bool:
    """Whether a run can be given this name."""
    return _NAME.fullmatch(text) is not None


def name_of(run: Run) -> str | None:
    """The name that a run was given; None when it has none, or something else stands in its place."""
    try:
        text = read_bytes(run.path / _NAME_FILE, most=100).decode().removesuffix("\n")
    except (OSError, ValueError):
        return None
    return text if is_name(text) else None


def create(root: str | Path, *, name: str | None = None) -> Run:
    """A new run, which has this name from the start. Raises ConfigError as `check_free` does."""
    if name is None:
        return Run.create(root)
    with _alone_in(Path(root)):
        check_free(name, root)
        run = Run.create(root)
        write_bytes(run.path / _NAME_FILE, f"{name}\n".encode())
    return run


def check_free(name: str, root: str | Path) -> None:
    """ConfigError (exit 2) when no run can have this name, or another run of the folder has it."""
    if not is_name(name):
        raise ConfigError(
            f"--name {name} cannot be the name of a run: take a letter, then up to 63 letters, digits, dots, dashes "
            "and underscores, but not latest or best"
        )
    for folder, also in ((Path(root), ""), (Path(root) / TRASH, ", which is in the trash")):
        for run in all_runs(folder):
            if name_of(run) == name:
                raise ConfigError(f"--name {name} is the name of run {run.number} in {root}{also}: choose another")


@contextlib.contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """No other process names a run of this folder meanwhile. What fails here fails again where the run is made."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            make_folder(root)
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _named(name: str, root: Path, listed_by: str) -> Run:
    names = {run: given for run in all_runs(root) if (given := name_of(run)) is not None}
    found = [run for run, given in names.items() if given == name]
    if not found:
        near = nearest(name, names.values())
        mend = did_you_mean(name, near) if near else f"see `{listed_by}`"
        raise RunError(f"there is no run named {name} in {root}: {mend}")
    if len(found) > 1:  # a folder was copied by hand
        raise RunError(f"{name} names the runs {', '.join(str(r.number) for r in found)} in {root}: use the number")
    return found[0]


def _best(metric: str, root: Path) -> Run:
    best: tuple[float, Run] | None = None
    watched: set[str] = set()
    for run in all_runs(root):
        try:
            info = run.info()
            found = info.get("best") or {}
            name, value = found.get("metric"), found.get("value")
        except (DlcliError, AttributeError):
            continue
        if not isinstance(name, str) or not isinstance(value, int | float):
            continue
        watched.add(name)
        if name.removeprefix("val/") != metric:
            continue
        score = float(value) if found.get("higher_is_better") else -float(value)
        if best is None or score > best[0]:
            best = score, run
    if best is None:
        known = f"; the runs here watched {', '.join(sorted(watched))}" if watched else ""
        raise RunError(f"no run in {root} has a best {metric}{known}")
    return best[1]


def _climbs(path: Path) -> bool:
    """Whether `..` stands behind the name of a folder: a/../7."""
    parts = list(path.parts)
    while parts and parts[0] == "..":
        del parts[0]
    return ".." in parts
