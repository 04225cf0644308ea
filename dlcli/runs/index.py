"""What a table shows of runs that have ended, kept so that ten thousand of them are listed in a second.

`runs/FOLDER.jsonl` in the user's cache has a line per run: its number, the stamps of the files that were read, and what
they said. It counts only while the files still have these stamps, so that the files remain the database; without the
index, all of them are read. Lines are added, and a later one counts.

Ten thousand runs have much in common, and reading JSON is what takes time. So what they said is written as a difference
from a pattern, an entry that has a line of its own, is known by a digest, and has the same keys.
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

# Changes with what a line holds.
_VERSION = f"{__version__} 2"

# In smaller folders it would not save anything that a person notices.
_FEWEST = 200

# Files that are read for a row, and the folder, which changes when a file is added or replaced. What is not listed
# under _ALWAYS is usually not there, and cannot appear without a change of the folder.
_ALWAYS = ("", "run.json", "config.json", "eval/test.json")
_SOMETIMES = ("name.txt", "tags.txt", "note.txt")

_ENDED = {"finished", "interrupted", "pruned", "failed", "diverged"}

Entry = tuple[dict[str, Any], dict[str, Any]]  # the row and the settings of a run
Stamps = dict[str, str | None]
Patterns = dict[str, Entry]


def through(root: str | Path, numbers: list[int], read: Callable[[int], Entry]) -> Iterator[Entry]:
    """`read` of each number, or what is known of it. Nothing is kept of runs that can still change by themselves."""
    file = _file(root) if len(numbers) >= _FEWEST else None
    known, patterns, lines = _known(file)
    new: list[tuple[int, Stamps, Entry]] = []
    for number in numbers:
        folder = os.path.join(root, str(number))
        if number in known and _are_still(known[number][0], folder):
            yield _whole(*known[number][1:])
            continue
        before = _stamps(folder)
        entry = read(number)
        if file is not None and entry[0]["status"] in _ENDED and _stamps(folder) == before:
            new.append((number, before, entry))
        yield entry
    if file is not None and new:
        anew = lines + len(new) > 2 * len(numbers)
        _add(file, _lines(new, {} if anew else patterns), anew=anew)


def _known(file: Path | None) -> tuple[dict[int, tuple[Stamps, Entry, dict[str, Any], dict[str, Any]]], Patterns, int]:
    """By number the stamps, the pattern and the differences of row and settings; the patterns; and how many lines there
    are. A line that is damaged, or of another version, is as if it were not there."""
    known: dict[int, tuple[Stamps, Entry, dict[str, Any], dict[str, Any]]] = {}
    patterns: Patterns = {}
    try:
        lines = [] if file is None else file.read_bytes().split(b"\n")
    except OSError:
        return {}, {}, 0
    for line in lines:
        try:
            version, number, told, *differences = json.loads(line)
            if version != _VERSION:
                continue
            if differences:
                pattern, row, config = differences
                if not isinstance(row, dict) or not isinstance(config, dict):
                    continue
                known[number] = told, patterns[pattern], row, config
            else:
                row, config = told
                patterns[number] = row, config
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return known, patterns, len(lines)


def _whole(pattern: Entry, row: dict[str, Any], config: dict[str, Any]) -> Entry:
    values = pattern[0] | row
    if isinstance(values["metrics"], list):
        values["metrics"] = dict(zip(pattern[0]["metrics"], values["metrics"], strict=True))
    return values, pattern[1] | config


def _lines(new: list[tuple[int, Stamps, Entry]], patterns: Patterns) -> Iterator[str]:
    """A line for each, and before it one for its pattern if there is none yet."""
    digests = {_keys(pattern): digest for digest, pattern in patterns.items()}
    for number, stamps, entry in new:
        if (digest := digests.get(_keys(entry))) is None:
            text = json.dumps(entry)
            digest = digests[_keys(entry)] = hashlib.sha256(text.encode()).hexdigest()[:16]
            patterns = patterns | {digest: entry}
            yield json.dumps([_VERSION, digest, entry]) + "\n"
        pattern = patterns[digest]
        row, config = (_difference(one, other) for one, other in zip(entry, pattern, strict=True))
        if "metrics" in row and list(row["metrics"]) == list(pattern[0]["metrics"]):
            row["metrics"] = list(row["metrics"].values())
        yield json.dumps([_VERSION, number, stamps, digest, row, config], separators=(",", ":")) + "\n"


def _keys(entry: Entry) -> tuple[tuple[str, ...], ...]:
    return tuple(entry[0]), tuple(entry[1])


def _difference(values: dict[str, Any], pattern: dict[str, Any]) -> dict[str, Any]:
    """repr, since 1, 1.0 and True are equal."""
    return {name: value for name, value in values.items() if repr(value) != repr(pattern[name])}


def _add(file: Path, lines: Iterator[str], *, anew: bool) -> None:
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


def _are_still(stamps: Stamps, folder: str) -> bool:
    for name, stamp in stamps.items():
        if stamp != _stamp(folder, name):
            return False
    return True


def _stamp(folder: str, name: str) -> str | None:
    try:
        found = os.lstat(f"{folder}/{name}")
    except OSError:
        return None
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
