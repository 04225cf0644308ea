"""The numbers of runs: each is the name of a folder, and no number is used twice."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dlcli.core.errors import ResourceError, RunError
from dlcli.core.files import make_folder
from dlcli.core.reading import read_json

RUN_NUMBER = re.compile(r"([1-9][0-9]{0,8})")

TRASH = ".trash"

# In the trash: a run that is being deleted permanently.
PURGING = re.compile(r"\.purging-([1-9][0-9]{0,8})")


def numbers(root: Path, pattern: re.Pattern[str] = RUN_NUMBER) -> list[int]:
    """The numbers of the folders in `root` whose names match `pattern`."""
    try:
        with os.scandir(root) as entries:
            named = [(entry, pattern.fullmatch(entry.name)) for entry in entries]
            return [int(match[1]) for entry, match in named if match and entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResourceError(f"cannot list {root}: {error.strerror}") from None


def take_number(root: Path) -> int:
    """Make an empty folder whose name is a number that no run has had. `mkdir` settles races between processes.

    ResourceError if the folder cannot be made.
    """
    with told_as_resource_error(root):
        make_folder(root)
        number = _highest(root) + 1
        while not _is_made(root, number):
            number = max(number, _highest(root)) + 1
    return number


def _is_made(root: Path, number: int) -> bool:
    """Make the folder; False if the number is taken, by an entry here or by a run that has just been removed."""
    if not RUN_NUMBER.fullmatch(str(number)):
        raise RunError(f"{root} holds, or held, a run of the highest number that there is: choose --runs-dir")
    folder = root / str(number)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    if _highest_removed(root) < number:
        return True
    folder.rmdir()
    return False


def _highest(root: Path) -> int:
    """The highest number that a run has had."""
    return max([0, *numbers(root), _highest_removed(root)])


def _highest_removed(root: Path) -> int:
    """The highest number of the runs in the trash, those that are being purged and those that were purged; else 0."""
    found = [0, *numbers(root / TRASH), *numbers(root / TRASH, PURGING)]
    with contextlib.suppress(RunError, ValueError, TypeError, KeyError):
        found.append(int(read_json(root / TRASH / "purged.json")["highest"]))
    return max(found)


@contextlib.contextmanager
def told_as_resource_error(root: Path) -> Iterator[None]:
    """An error of the disk, while a run is made in `root`, as a ResourceError."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"cannot make a run in {root}: {error.strerror}; choose --runs-dir") from None
