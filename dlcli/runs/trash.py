"""The trash: where a removed run stays until it is restored or purged.

    runs/.trash/42            what was runs/42; no other run gets its number
    runs/.trash/.purging-42   a run that is being deleted; the next purge completes an interrupted one
    runs/.trash/purged.json   the highest number that was ever purged
    runs/.trash/lock          locked by the process that purges

Only a folder that is provably a run of dlcli is moved or deleted, and no link is ever followed. A run is moved by one
rename while its lock is held, so it is always either here or there, and a run that is being trained is never moved.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.config.settings import FORMAT
from dlcli.core.errors import BusyError, ResourceError, RunError
from dlcli.core.files import held, make_folder, move_folder, sweep, write_json
from dlcli.core.reading import files_below, open_regular, read_json
from dlcli.runs import given_names, names, table
from dlcli.runs.lock import MARK
from dlcli.runs.numbers import PURGING, TRASH
from dlcli.runs.run import Run, all_runs

_MOST_FILES = 10_000_000


@dataclass(frozen=True)
class Change:
    """What happened to a run. path: where it is now; None if it was deleted. size: of its files, in bytes."""

    run: int
    path: Path | None
    size: int


def trash_of(root: str | Path) -> Path:
    return Path(root) / TRASH


def find(text: str, root: str | Path) -> list[Run]:
    """The runs in the trash that `text` names (see `names.find`); `runs/42` is the one that was there.

    RunError if there are none.
    """
    path = Path(text)
    if "/" in text and (path.name.isdigit() or given_names.is_name(path.name)):
        root = path.parent.parent if path.parent.name == TRASH else path.parent
        text = path.name
    trash = trash_of(root)
    if not all_runs(trash):
        raise RunError(f"the trash of {root} is empty")
    return names.find(text, trash, listed_by="dlcli runs restore")


def remove(chosen: Sequence[Run]) -> list[Change]:
    """Move runs to the trash. Raises what `check_removable` does, before any is moved."""
    check_removable(chosen)
    return [_move(run, _made(trash_of(run.root)) / str(run.number)) for run in chosen]


def check_removable(chosen: Sequence[Run]) -> None:
    """BusyError if a run is being trained; RunError if one is in the trash or not provably a run of dlcli."""
    for run in chosen:
        if run.root.name == TRASH:
            raise RunError(f"{run} is in the trash already: `dlcli runs purge` deletes for good")
        _check_is_ours(run.path)
        if run.is_locked():
            raise BusyError(f"{run} is being trained by another process: stop it first")


def restore(chosen: Sequence[Run]) -> list[Change]:
    """Move runs from the trash back to where they were."""
    for run in chosen:
        _check_is_ours(run.path)
    return [_move(run, run.root.parent / str(run.number)) for run in chosen]


def purge(chosen: Sequence[Run], root: str | Path) -> list[Change]:
    """Delete these runs in the trash permanently, and what an interrupted purge of `root` has left."""
    for run in chosen:
        _check_is_ours(run.path)
    deleted = []
    for trash in dict.fromkeys([trash_of(root), *(run.root for run in chosen)]):
        if trash.is_dir() and not trash.is_symlink():
            with _alone_in(trash):
                sweep(trash)
                deleted += _finish(trash)
                deleted += [_purge(run) for run in chosen if run.root == trash]
    return deleted


def rows(root: str | Path) -> list[dict[str, Any]]:
    """One row per run in the trash, newest first: the columns of runs/table.py and `bytes`, its size."""
    return rows_of(all_runs(trash_of(root)))


def rows_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """As `rows`, for these runs."""
    return [table.row(run) | {"bytes": size(run.path)} for run in runs]


def purgeable(root: str | Path) -> tuple[list[Run], list[Run]]:
    """The runs in the trash, and the numbered folders there that cannot be proved to be runs of dlcli."""
    found = all_runs(trash_of(root))
    ours = [run for run in found if is_ours(run.path)]
    return ours, [run for run in found if run not in ours]


def is_ours(path: Path) -> bool:
    """Whether this folder is provably a run of dlcli. A number as its name is no proof."""
    return _proof(path) is not None


def size(path: Path) -> int:
    """Bytes that deleting a folder frees: hard links in it to the same file count once, and a file that also has a
    link elsewhere does not count."""
    names: dict[tuple[int, int], int] = {}
    total = 0
    for file in files_below(path, most=_MOST_FILES):
        with contextlib.suppress(OSError):
            status = file.lstat()
            inode = status.st_dev, status.st_ino
            names[inode] = names.get(inode, 0) + 1
            if names[inode] == status.st_nlink:
                total += status.st_size
    return total


def _proof(path: Path) -> str | None:
    """The file that proves a folder to be a run: its marked lock, else a config.json or run.json in dlcli's format."""
    if path.is_symlink() or not path.is_dir():
        return None
    with contextlib.suppress(OSError), open(open_regular(path / "lock"), "rb") as file:
        if file.read(len(MARK)) == MARK:
            return "lock"
    for name in ("config.json", "run.json"):
        with contextlib.suppress(RunError):
            document = None if (path / name).is_symlink() else read_json(path / name)
            if isinstance(document, dict) and document.get("format") == FORMAT and "model" in document:
                return name
    return None


def _check_is_ours(path: Path) -> None:
    if not is_ours(path):
        raise RunError(f"{path} does not prove to be a run of dlcli, so it is left alone: move it by hand")


def _move(run: Run, target: Path) -> Change:
    with run.locked():
        if os.path.lexists(target):
            raise RunError(f"{target} is in the way of {run}: move it by hand")
        taken = size(run.path)
        move_folder(run.path, target)
    return Change(run.number, target, taken)


def _made(trash: Path) -> Path:
    try:
        make_folder(trash)
    except OSError as error:
        raise ResourceError(f"cannot make {trash}: {error.strerror}") from None
    if trash.is_symlink():
        raise RunError(f"{trash} is a symbolic link, and no run is moved through one: remove it by hand")
    return trash


@contextlib.contextmanager
def _alone_in(trash: Path) -> Iterator[None]:
    """Inside the block no other process purges; waits for one that does."""
    with held(os.open(trash / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)):
        yield


def _finish(trash: Path) -> list[Change]:
    found = [(path, PURGING.fullmatch(path.name)) for path in sorted(trash.iterdir())]
    return [_delete(path, int(match[1])) for path, match in found if match]


def _purge(run: Run) -> Change:
    doomed = run.root / f".purging-{run.number}"
    with run.locked():
        move_folder(run.path, doomed)
    return _delete(doomed, run.number)


def _remember(trash: Path, number: int) -> None:
    """Record that this number was used (see `Run.create`), before its folder is deleted."""
    file = trash / "purged.json"
    with contextlib.suppress(RunError, KeyError, TypeError, ValueError):
        if int(read_json(file)["highest"]) >= number:
            return
    write_json(file, {"highest": number})


def _delete(path: Path, number: int) -> Change:
    """Delete a run's folder and everything in it; the file that proves it to be a run is deleted last.

    So whoever completes an interrupted deletion finds a folder that is provably a run, or an empty one.
    """
    proof = _proof(path)
    if path.is_symlink() or (proof is None and any(path.iterdir())):
        raise RunError(f"{path} does not prove to be a run of dlcli, so it is left alone: delete it by hand")
    if not shutil.rmtree.avoids_symlink_attacks:
        raise ResourceError("this system cannot delete a folder without following links: delete it by hand")
    given_back = size(path)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for name in sorted(os.listdir(folder), key=lambda name: name == proof):
                if stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                    shutil.rmtree(name, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)
        _remember(path.parent, number)
        os.rmdir(path)
    except OSError as error:
        raise ResourceError(
            f"cannot delete {error.filename or path}: {error.strerror}; purge again to finish"
        ) from None
    except RecursionError:
        raise ResourceError(f"cannot delete {path}: its folders are nested too deeply; delete it by hand") from None
    return Change(number, None, given_back)
