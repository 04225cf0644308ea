"""Reads untrusted files: regular files only, up to a size limit.

No symbolic link is followed, no FIFO is waited for, no device is opened (`open_regular`). JSON must be strict and
unambiguous (`parse_json`).
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlcli.core.errors import RunError

# Largest size of a JSON document in bytes, and deepest nesting. Our own documents are far below both.
MOST_JSON = 1_000_000
_DEEPEST = 32

# How a document begins that has a checksum of all that follows this line.
CHECKSUM_LINE = b'{\n  "checksum": "%s",\n'
# Most characters of a number: enough for every float and every 64-bit integer.
_LONGEST_NUMBER = 400


def open_regular(path: Path | str, flags: int = os.O_RDONLY, *, follow: bool = False) -> int:
    """A file descriptor of a regular file; anything else at `path` is refused.

    follow: whether `path` may be a symbolic link: a user's own file may be one, a file of a run may not.
    Raises OSError, whose strerror fits at the end of an error message.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(path, follow_symlinks=follow).st_mode
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, f"it is {_what(mode)}")
        descriptor = os.open(path, flags | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW), 0o644)
    except ValueError:
        raise OSError(errno.EINVAL, "its name holds a NUL character") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_what(mode)}")
    return descriptor


def read_bytes(path: Path | str, *, most: int, follow: bool = False) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises OSError as `open_regular` does."""
    descriptor = open_regular(path, follow=follow)
    try:
        size = os.fstat(descriptor).st_size
        content = _read(descriptor, most + 1) if size <= most else b""
    finally:
        os.close(descriptor)
    if max(size, len(content)) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return content


def read_start(folder: str, path: str, *, most: int) -> bytes | None:
    """The first bytes of a file in `folder`; None if there is no such file or folder.

    Raises OSError as `open_regular` does, and if the folder is a symbolic link, which would lead out of the run.
    """
    try:
        if not stat.S_ISDIR(mode := os.lstat(folder).st_mode):
            raise OSError(errno.EINVAL, f"{folder} is {_what(mode)}")
        descriptor = open_regular(path)
    except FileNotFoundError:
        return None
    try:
        return _read(descriptor, most)
    finally:
        os.close(descriptor)


def read_json(path: Path | str, *, most: int = MOST_JSON) -> Any:
    """The JSON document in `path`; RunError (exit 4) if it is missing or `parse_record` refuses it."""
    with told_as_damage(path):
        return parse_record(read_bytes(path, most=most))


def parse_record(content: bytes) -> Any:
    """The JSON document in `content`, without its checksum. ValueError if that is not the one of the content, or
    `parse_json` refuses it. Documents of dlcli 0.1.0 have no checksum."""
    document = parse_json(content)
    if isinstance(document, dict) and (recorded := document.pop("checksum", None)) is not None:
        found = hashlib.sha256(content[len(CHECKSUM_LINE % (b"0" * 64)) :]).hexdigest()
        if recorded != found or not content.startswith(CHECKSUM_LINE % found.encode()):
            raise ValueError("its content does not match its checksum; if you changed it yourself, delete that line")
    return document


def parse_json(content: bytes) -> Any:
    """The JSON document in `content`. ValueError if it is not JSON, is nested too deeply, repeats a key, or holds a
    number that is not finite, an integer of more than 64 bits, or half of a surrogate pair."""
    try:
        document = _DECODER.decode(content.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if content.count(b"[") + content.count(b"{") > _DEEPEST:  # else it cannot be
        check_depth(document)
    if b"\\u" in content:
        json.dumps(document, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    return document


def check_depth(document: Any) -> None:
    """ValueError if tables and lists are nested so deeply that a recursive function would run out of stack."""
    level = [document]
    for _ in range(_DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def files_below(folder: Path, *, most: int) -> list[Path]:
    """The regular files in `folder` and its subfolders, sorted, without symbolic links. If there are more than `most`
    entries, only some of them."""
    found: list[Path] = []
    waiting = [folder]
    seen = 0
    while waiting and seen < most:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in itertools.islice(entries, most - seen):
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    found.append(Path(entry.path))
    return sorted(found)


def places(path: str) -> list[str]:
    """The paths in `a.txt,b.txt`; what there is under this name is one path, whatever commas are in it."""
    try:
        alone = "," not in path or Path(path).exists()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        alone = False
    parts = path.split(",")
    return [path] if alone or not all(parts) else parts


@contextlib.contextmanager
def told_as_damage(path: Path | str) -> Iterator[None]:
    """Turns OSError and ValueError into RunError (exit 4): the file of a run is missing, unreadable or damaged."""
    try:
        yield
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from None


def _read(descriptor: int, most: int) -> bytes:
    pieces, size = [], 0
    while size < most and (piece := os.read(descriptor, min(most - size, 1 << 20))):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _what(mode: int) -> str:
    kinds = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"))
    return next((name for holds, name in kinds if holds(mode)), "no regular file")


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        for twice, _ in pairs:
            if twice in seen:
                break
            seen.add(twice)
        raise ValueError(f"{_cut(twice)!r} appears twice")
    return table


def _whole_number(text: str) -> int:
    if len(text) > _LONGEST_NUMBER or not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError(f"{_cut(text)} is too large a number")
    return number


def _finite_number(text: str) -> float:
    if len(text) > _LONGEST_NUMBER or not abs(number := float(text)) < float("inf"):
        raise ValueError(f"{_cut(text)} is not a finite number")
    return number


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


_DECODER = json.JSONDecoder(
    object_pairs_hook=_table, parse_int=_whole_number, parse_float=_finite_number, parse_constant=_finite_number
)
