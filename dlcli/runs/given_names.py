"""Names that runs are given: `dlcli train --name digits-1`.

The name is the only line of runs/42/name.txt. No two runs of a folder have the same, those in the trash included.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dlcli.core.errors import ConfigError, RunError, did_you_mean, nearest
from dlcli.core.files import make_folder, write_bytes
from dlcli.core.reading import read_bytes
from dlcli.runs.run import TRASH, Run, all_runs

# A name that can be given. It has no colon or comma, and no digit first, so that it is nothing else of the grammar.
_NAME = re.compile("(?!(?:latest|best)$)[a-z][a-z0-9_.-]{0,63}", re.I)

_NAME_FILE = "name.txt"


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


def with_name(name: str, root: Path, *, listed_by: str) -> Run:
    """The run of this name in a folder. RunError (exit 4) when there is none."""
    names = {run: given for run in all_runs(root) if (given := name_of(run)) is not None}
    found = [run for run, given in names.items() if given == name]
    if not found:
        near = nearest(name, names.values())
        mend = did_you_mean(name, near) if near else f"see `{listed_by}`"
        raise RunError(f"there is no run named {name} in {root}: {mend}")
    if len(found) > 1:  # a folder was copied by hand
        raise RunError(f"{name} names the runs {', '.join(str(r.number) for r in found)} in {root}: use the number")
    return found[0]


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
