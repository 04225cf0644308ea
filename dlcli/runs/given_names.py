"""Names that runs are given: `dlcli train --name digits-1`.

The name is the only line of runs/42/name.txt. No two runs of a folder, including those in its trash, share a name.
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
from dlcli.runs.numbers import TRASH
from dlcli.runs.run import Run, all_runs

# A valid name. Without colons, commas and a leading digit it cannot be confused with the other ways to name a run.
_NAME = re.compile("(?!(?:latest|best)$)[a-z][a-z0-9_.-]{0,63}", re.I)

_NAME_FILE = "name.txt"


def is_name(text: str) -> bool:
    """Whether this is a valid name for a run."""
    return _NAME.fullmatch(text) is not None


def name_of(run: Run) -> str | None:
    """The name that a run was given; None if it has none or name.txt does not hold a valid one."""
    try:
        text = read_bytes(run.path / _NAME_FILE, most=100).decode().removesuffix("\n")
    except (OSError, ValueError):
        return None
    return text if is_name(text) else None


def create(root: str | Path, *, name: str | None = None) -> Run:
    """A new run with this name. Raises ConfigError as `check_free` does."""
    if name is None:
        return Run.create(root)
    with _alone_in(Path(root)):
        check_free(name, root)
        run = Run.create(root)
        write_bytes(run.path / _NAME_FILE, f"{name}\n".encode())
    return run


def check_free(name: str, root: str | Path) -> None:
    """ConfigError (exit 2) if the name is not valid, or another run of the folder or of its trash has it."""
    if not is_name(name):
        raise ConfigError(
            f"--name {name} cannot be the name of a run: use a letter, then up to 63 letters, digits, dots, dashes "
            "and underscores, but not latest or best"
        )
    for folder, also in ((Path(root), ""), (Path(root) / TRASH, ", which is in the trash")):
        for run in all_runs(folder):
            if name_of(run) == name:
                raise ConfigError(f"--name {name} is the name of run {run.number} in {root}{also}: choose another")


def with_name(name: str, root: Path, *, listed_by: str) -> Run:
    """The run of this name in a folder. RunError (exit 4) if there is none, or more than one.

    listed_by: the command that lists the runs, for the error.
    """
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
    """Inside the block, no other process names a run in this folder. Ignores errors: creating the run raises them."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            make_folder(root)
            descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
