"""The commit protocol: the files of a run are written whole or not at all.

Everything that dlcli writes into a run goes through this module. New content is written under a temporary name in the
same folder, flushed to the disk and renamed, and the folder is flushed: if the process is killed or the machine loses
power at any moment, either the old content or the new content remains. The exceptions are the files that only grow:
metrics.csv, log.txt and TensorBoard's event file (see `append`).

Files are read with reading.py.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dlcli.core.errors import ResourceError, RunError
from dlcli.core.reading import CHECKSUM_LINE, open_regular, read_json, told_as_damage

MANIFEST = "MANIFEST.json"

_TEMPORARY = ".tmp-"


def write_bytes(path: Path, content: bytes, *, mark: str = "") -> None:
    """Replace the content of `path`, atomically and durably. mark: begins the name of the partial file, in a folder
    where several processes write at once and each sweeps only what is its own."""
    temporary = path.with_name(f"{_TEMPORARY}{mark}{uuid.uuid4().hex}")
    with _told_as_resource_error(path, needed=len(content)):
        try:
            _write_and_flush(temporary, content)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the content of `path` by `value` as JSON with a checksum, which `read_json` compares. NaN and infinity
    are refused: they are not JSON."""
    write_bytes(path, with_checksum(value))


def with_checksum(value: Mapping[str, Any]) -> bytes:
    """`value` as JSON; its first line has the sha256 of all that follows."""
    content = to_json(value).encode(errors="replace")  # a path may contain bytes that are not UTF-8
    rest = content.removeprefix(b"{\n")
    return CHECKSUM_LINE % hashlib.sha256(rest).hexdigest().encode() + rest


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def append_line(path: Path, line: str) -> None:
    """Add one line; see `append`."""
    append(path, line.encode(errors="replace") + b"\n")


def append(path: Path, content: bytes) -> None:
    """Add to a file in a single write, so that a reader never sees a part of it. It is not flushed."""
    with _told_as_resource_error(path, needed=len(content)):
        descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with open(descriptor, "ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if not before:
                    flush_folder(path.parent)
            except OSError:
                file.truncate(before)
                raise


def truncate(path: Path, size: int) -> None:
    """Cut a file down to `size` bytes. A shorter or missing file is left alone."""
    if not path.exists():
        return
    with _told_as_resource_error(path), open(open_regular(path, os.O_RDWR), "rb+", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > size:
            file.truncate(size)


def flushed_size(path: Path) -> int:
    """Flush a file that grows, and return its size in bytes; 0 if there is no such file."""
    try:
        with _told_as_resource_error(path), open(open_regular(path), "rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size
    except ResourceError:
        if path.exists():
            raise
        return 0


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, durably. It may exist already."""
    try:
        path.mkdir()
    except FileNotFoundError:
        make_folder(path.parent)
        make_folder(path)
    except OSError:
        if not path.is_dir():
            raise
    else:
        flush_folder(path.parent)


def write_folder(path: Path, contents: Mapping[str, bytes | Path]) -> None:
    """Create the folder `path` with these files; a Path stands for an existing file, which is linked.

    A MANIFEST.json with the size and sha256 of every file is added; `verify_folder` reads it.
    """
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    with _told_as_resource_error(path, needed=sum(len(c) for c in contents.values() if isinstance(c, bytes))):
        try:
            temporary.mkdir()
            entries = {}
            for name, content in contents.items():
                file = temporary / name
                if isinstance(content, Path):
                    _link(content, file)
                else:
                    _write_and_flush(file, content)
                entries[name] = {"size": file.stat().st_size, "sha256": sha256_of(file)}
            _write_and_flush(temporary / MANIFEST, to_json({"format": 1, "files": entries}).encode())
            flush_folder(temporary)
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        flush_folder(path.parent)


def verify_folder(path: Path) -> None:
    """Raise RunError, naming the damage, unless every file is as its MANIFEST.json says."""
    verify_digests(path, read_manifest(path))


def read_manifest(path: Path) -> dict[str, str]:
    """The sha256 of each file in MANIFEST.json, by name. RunError unless all files exist with the right size: the part
    of `verify_folder` that does not read them."""
    manifest = read_json(path / MANIFEST)
    try:
        entries = {name: (int(e["size"]), str(e["sha256"])) for name, e in manifest["files"].items()}
    except (TypeError, KeyError, AttributeError, ValueError):
        raise RunError(f"{path / MANIFEST} is damaged: not a manifest") from None
    for name, (size, _) in entries.items():
        if "/" in name:
            raise RunError(f"{path / MANIFEST} is damaged: {name!r} is not a file in its folder")
        with told_as_damage(path / name), open(open_regular(path / name), "rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found != size:
                raise RunError(f"{path / name} is damaged: {found} of {size} bytes")
    return {name: digest for name, (_, digest) in entries.items()}


def verify_digests(path: Path, digests: Mapping[str, str]) -> None:
    """The other part of `verify_folder`: reads all files."""
    for name, digest in digests.items():
        with told_as_damage(path / name), open(open_regular(path / name), "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise RunError(f"{path / name} is damaged: its sha256 is not the recorded one")


def move_folder(source: Path, target: Path) -> None:
    """Move a folder on the same disk, durably. The caller makes sure that `target` is free."""
    with _told_as_resource_error(target):
        os.rename(source, target)
        flush_folder(target.parent)
        flush_folder(source.parent)


def sweep(folder: Path) -> None:
    """Remove partial files that killed processes left in `folder`. The caller must be the only one to write there."""
    with contextlib.suppress(OSError, RecursionError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


@contextlib.contextmanager
def held(descriptor: int, *, waiting: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold the lock of an open file or folder, waiting for it, and close it in the end. waiting: called when another
    process holds it. False on a file system that has no locks (ENOLCK, ENOTSUP, EBADF)."""
    try:
        alone = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Flush the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder; the rename itself is still atomic.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_and_flush(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        _write_and_flush(target, source.read_bytes())


@contextlib.contextmanager
def _told_as_resource_error(path: Path, *, needed: int = 0) -> Iterator[None]:
    """Turns OSError into ResourceError (exit 6). needed: bytes to be written."""
    try:
        yield
    except OSError as error:
        space = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with contextlib.suppress(OSError):
                free = shutil.disk_usage(path.parent).free
                space = f" ({needed / 1e6:.3f} MB needed, {free / 1e6:.3f} MB free)"
        raise ResourceError(f"cannot write {path}: {error.strerror or error}{space}") from error
