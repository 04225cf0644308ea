"""What a table shows of runs that have ended, kept so that ten thousand of them are listed in a second.

`runs/FOLDER.jsonl` in the user's cache has a line per run: its number, the stamps of the files that were read, and what
they said. It counts only while the files still have these stamps, so that the files remain the database; without the
index, all of them are read. Lines are added, and a later one counts.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dlcli.core.cache import user_cache
from dlcli.core.version import __version__

# In smaller folders it would not save anything that a person notices.
_FEWEST = 200

# Files that are read for a row, and the folder, which changes when a file is added or replaced. What is not listed
# under _ALWAYS is usually not there, and cannot appear without a change of the folder.
_ALWAYS = ("", "run.json", "config.json", "eval/test.json")
_SOMETIMES = ("name.txt", "tags.txt", "note.txt")

_ENDED = {"finished", "interrupted", "pruned", "failed", "diverged"}

Entry = tuple[dict[str, Any], dict[str, Any]]  # the row and the settings of a run
Stamps = dict[str, list[int] | None]


def through(root: str | Path, numbers: list[int], read: Callable[[int], Entry]) -> Iterator[Entry]:
    """`read` of each number, or what is known of it. Nothing is kept of runs that can still change by themselves."""
    file = _file(root) if len(numbers) >= _FEWEST else None
    known, lines = ({}, 0) if file is None else _known(file)
    new: list[str] = []
    for number in numbers:
        folder = os.path.join(root, str(number))
        if number in known:
            stamps, row, config = known[number]
            if all(stamp == _stamp(folder, name) for name, stamp in stamps.items()):
                yield row, config
                continue
        before = _stamps(folder)
        entry = read(number)
        if file is not None and entry[0]["status"] in _ENDED and _stamps(folder) == before:
            new.append(json.dumps([__version__, number, before, *entry]) + "\n")
        yield entry
    if file is not None and new:
        _add(file, new, anew=lines + len(new) > 2 * len(numbers))


def _known(file: Path) -> tuple[dict[int, tuple[Stamps, dict[str, Any], dict[str, Any]]], int]:
    """By number; and how many lines there are. A line that is damaged, or of another version, is as if it were not
    there."""
    known = {}
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError:
        return {}, 0
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            version, number, stamps, row, config = json.loads(line)
            if version == __version__:
                known[number] = stamps, row, config
    return known, len(lines)


def _add(file: Path, lines: list[str], *, anew: bool) -> None:
    """anew: in place of what the file holds. A cache that cannot be written is done without."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        if anew:
            file.unlink(missing_ok=True)
        with open(file, "ab", buffering=0) as kept:
            kept.write(b"\n" + "".join(lines).encode())


def _file(root: str | Path) -> Path:
    return user_cache() / "runs" / f"{hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:32]}.jsonl"


def _stamps(folder: str) -> Stamps:
    sometimes = {name: stamp for name in _SOMETIMES if (stamp := _stamp(folder, name)) is not None}
    return {name: _stamp(folder, name) for name in _ALWAYS} | sometimes


def _stamp(folder: str, name: str) -> list[int] | None:
    try:
        found = os.lstat(f"{folder}/{name}")
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
