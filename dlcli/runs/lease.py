"""Leases: the lock of a run where the file system has no flock, or one that other machines do not see.

A lease is a file with a number in its name, made with O_EXCL, which is atomic on local file systems and on NFS from
version 3 on. Who makes the next number holds the lock, and renews it by writing a count into the file. It is free again
when its holder says so in the file, when its holder was a process of this machine that has ended, or when the count has
stood still for 30 seconds of whoever waits: the clocks of two machines are never compared. Numbers only grow, so that
two who find a lease free cannot both take the next one, and a holder that was frozen sees that it was overtaken.
"""

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlcli.core.errors import BusyError
from dlcli.core.reading import read_bytes

# Asks for leases where flock works, but only within one machine: `DLCLI_LOCKS=files`.
VARIABLE = "DLCLI_LOCKS"

_NAME = "lease-"
_RENEWED = 5.0  # seconds between two counts
_LOST = 30.0  # seconds without a new count after which a lease is free
_SIZE = 300  # bytes of the file, always, so that a count needs no more space on a full disk


def are_asked_for() -> bool:
    return os.environ.get(VARIABLE) == "files"


def lacks_locks(error: OSError) -> bool:
    """Whether this error of flock says that the file system has no locks."""
    return error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def hold(folder: Path, *, shown: str) -> Iterator[None]:
    """Hold the lease of a folder. BusyError if another process does.

    May wait for 30 seconds, to see whether the holder on another machine still renews it. A holder that was frozen for
    longer, and overtaken, ends with exit code 9, before it writes into what is another's now.
    """
    number = _newest(folder)
    if number and not _is_free(folder, number) and (_is_alive(folder, number) or _is_renewed(folder, number)):
        raise BusyError(f"{shown} is being trained by another process")
    number += 1
    try:
        descriptor = os.open(_file(folder, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise BusyError(f"{shown} is being trained by another process") from None
    if _newest(folder) != number:  # an old list of the folder, as NFS keeps them, named one that is long gone
        os.close(descriptor)
        _file(folder, number).unlink(missing_ok=True)
        raise BusyError(f"{shown} is being trained by another process")
    done = threading.Event()
    try:
        _write(descriptor, count=0)
        for older in range(max(1, number - 9), number):
            _file(folder, older).unlink(missing_ok=True)
        threading.Thread(target=_renew, args=(folder, number, descriptor, done, shown), daemon=True).start()
        yield
    finally:
        done.set()
        with contextlib.suppress(OSError):
            os.pwrite(descriptor, b"free".ljust(_SIZE), 0)
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process holds the lease of a folder, as far as one look tells: that of another machine counts as held
    until it is a minute old by the clock of the file system."""
    number = _newest(folder)
    if not number or _is_free(folder, number):
        return False
    if _is_alive(folder, number):
        return True
    try:
        return time.time() - _file(folder, number).stat().st_mtime < 2 * _LOST
    except OSError:
        return False


def _renew(folder: Path, number: int, descriptor: int, done: threading.Event, shown: str) -> None:
    count = 0
    while not done.wait(_RENEWED):
        if _newest(folder) != number:
            if folder.is_dir() and not done.is_set():
                sys.stderr.write(f"error: {shown} was not renewed for {_LOST:.0f} s, and another process has it now\n")
                os._exit(BusyError.exit_code)
            return  # the run was moved
        count += 1
        with contextlib.suppress(OSError):  # the next one may be written
            _write(descriptor, count=count)


def _write(descriptor: int, *, count: int) -> None:
    record = {"place": _place(), "pid": os.getpid(), "started": _started(os.getpid()), "count": count}
    os.pwrite(descriptor, json.dumps(record).encode().ljust(_SIZE), 0)
    os.fsync(descriptor)


def _newest(folder: Path) -> int:
    """The largest number of a lease; 0 without one."""
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    numbers = (name.removeprefix(_NAME) for name in names if name.startswith(_NAME))
    return max((int(digits) for digits in numbers if digits.isdecimal()), default=0)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{_NAME}{number:06}"


def _content(folder: Path, number: int) -> bytes:
    try:
        return read_bytes(_file(folder, number), most=10 * _SIZE)
    except OSError:
        return b""


def _is_free(folder: Path, number: int) -> bool:
    """Whether its holder has let it go, or was a process of this machine that has ended."""
    content = _content(folder, number)
    record = _record(content)
    here = record.get("place") == _place() != ""
    return content.strip() == b"free" or (here and not _runs(record))


def _is_alive(folder: Path, number: int) -> bool:
    """Whether its holder is a process of this machine that runs."""
    record = _record(_content(folder, number))
    return record.get("place") == _place() != "" and _runs(record)


def _is_renewed(folder: Path, number: int) -> bool:
    """Whether its holder writes a new count, for which this waits."""
    before, until = _content(folder, number), time.monotonic() + _LOST
    while time.monotonic() < until:
        time.sleep(min(1.0, _LOST / 10))
        now = _content(folder, number)
        if now.strip() == b"free":
            return False
        if now != before:
            return True
    return False


def _record(content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _runs(record: dict[str, Any]) -> bool:
    pid = record.get("pid")
    return isinstance(pid, int) and _started(pid) is not None and _started(pid) == record.get("started")


def _started(pid: int) -> str | None:
    """When a process of this machine began, in ticks since the machine did; None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _place() -> str:
    """Where a number of a process means the same one: this start of this machine, and the container in it. Empty where
    that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""
