"""What is kept of images, tables and texts, for `dlcli cache`, and how two entries differ. Imports no torch."""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dlcli.core.cache import user_cache
from dlcli.core.errors import ConfigError, DlcliError, ResourceError
from dlcli.core.reading import parse_json, read_bytes, read_json

_ENTRY = re.compile("[0-9a-f]{64}")
MOST_FILES_JSON = 2_000_000_000  # bytes
_SHOWN = 12  # characters of a key


@dataclass(frozen=True)
class Entry:
    """Images that were decoded to one size, a table (its columns, or its features), or what is known of texts.

    folder: of the files, or the file. shape: (N, H, W, C), (rows, columns), or (texts,). paths: its files; the first
    ones make it an entry. made, used: seconds since 1970, when it was made and when a command last read it.
    """

    key: str
    folder: str
    shape: tuple[int, ...]
    paths: tuple[Path, ...]
    bytes: int
    made: float
    used: float

    @property
    def row(self) -> dict[str, Any]:
        return {
            "entry": self.key[:_SHOWN],
            "folder": self.folder,
            "images": self.shape[0] if self.shape else 0,
            "size": "x".join(map(str, (self.shape[-1], *self.shape[1:-1]))) if len(self.shape) in (2, 4) else None,
            "bytes": self.bytes,
            "made": datetime.fromtimestamp(self.made, UTC).isoformat(timespec="seconds"),
            "used": datetime.fromtimestamp(self.used, UTC).isoformat(timespec="seconds"),
        }


def entries() -> list[Entry]:
    """All of the cache, the one that was used last first."""
    files: dict[str, list[Path]] = {}
    for path in _files():
        if _ENTRY.fullmatch(key := path.name.partition(".")[0]):
            files.setdefault(key, []).append(path)
    found = [entry for key, paths in files.items() if (entry := _entry(key, sorted(paths))) is not None]
    return sorted(found, key=lambda entry: -entry.used)


def clear(names: Sequence[str], *, older_than: float = 0.0, now: float) -> list[Entry]:
    """Remove entries, of which `names` has the beginning of a key, or the folder; all without names. What a running
    training has opened stays readable for it.

    older_than: seconds since an entry was used. ConfigError for a name that stands for none.
    """
    every = entries()
    for name in names:
        if not any(_is_named(entry, name) for entry in every):
            raise ConfigError(f"{name} is no entry of the cache: `dlcli cache` lists them")
    chosen = [
        entry
        for entry in every
        if (not names or any(_is_named(entry, name) for name in names)) and now - entry.used >= older_than
    ]
    try:
        for entry in chosen:
            for path in entry.paths:  # first what makes it an entry
                path.unlink(missing_ok=True)
        if not names:
            _sweep(everything=len(chosen) == len(every) and not older_than, now=now)
    except OSError as error:
        raise ResourceError(f"cannot remove {error.filename}: {error.strerror}") from None
    return chosen


def changes(before: str, after: str, *, of: str) -> str:
    """`3 new, 1 missing, 2 changed`: how the files of two keys differ; empty if the cache does not know. of: images or
    texts."""
    try:
        one, other = (_sums(key, of) for key in (before, after))
    except (OSError, ValueError):
        return ""
    counts = {
        "new": len(other.keys() - one.keys()),
        "missing": len(one.keys() - other.keys()),
        "changed": sum(one[name] != other[name] for name in one.keys() & other.keys()),
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _sums(key: str, of: str) -> dict[str, str]:
    found = parse_json(read_bytes(user_cache() / of / f"{key}.sums", most=MOST_FILES_JSON))
    if not isinstance(found, dict):
        raise ValueError
    return found


def _is_named(entry: Entry, name: str) -> bool:
    return (len(name) >= 4 and entry.key.startswith(name)) or entry.folder == str(Path(name).absolute())


def _entry(key: str, paths: list[Path]) -> Entry | None:
    """None if another process has just removed it."""
    described: dict[str, Any] = {}
    first = [path for path in paths if path.suffix == ".json"]
    for path in first:
        try:
            found = read_json(path)
            described = {"folder": str(found["folder"]), "shape": tuple(map(int, found["shape"]))}
        except (DlcliError, KeyError, TypeError, ValueError):  # damaged: it can be cleared
            continue
    try:
        stats = [path.stat() for path in paths]
    except FileNotFoundError:
        return None
    ordered = (*first, *(path for path in paths if path not in first))
    made, used = min(stat.st_mtime for stat in stats), max(stat.st_mtime for stat in stats)
    size = sum(stat.st_size for stat in stats)
    return Entry(key, described.get("folder", ""), described.get("shape", ()), ordered, size, made, used)


def _files() -> Iterator[Path]:
    for folder in (user_cache() / name for name in ("images", "tables", "texts")):
        try:
            with os.scandir(folder) as found:
                yield from (Path(entry.path) for entry in found if entry.is_file(follow_symlinks=False))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ResourceError(f"{folder} cannot be read: {error.strerror}") from None


def _sweep(*, everything: bool, now: float) -> None:
    """Remove what killed processes left, and with `everything` also what is known of files. A folder of which another
    process holds the lock is left alone."""
    for path in _files():
        mark = path.name.removeprefix(".tmp-").partition(".")[0].partition("-")[0]
        old = path.name.startswith(".tmp-tar-") and now - path.stat().st_mtime > 86400
        left = path.name.startswith(".tmp-") and not path.name.startswith(".tmp-tar-")
        if old or ((left or (everything and path.suffix == ".files")) and _is_free(path.with_name(f"{mark}.lock"))):
            path.unlink(missing_ok=True)


def _is_free(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
