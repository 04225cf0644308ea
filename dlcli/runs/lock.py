"""The lock of a run: held by the process that trains it, released however that ends.

It is flock's, which the operating system releases with the process. Where the file system has no flock, or on request
(lease.py), it is a lease.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from dlcli.core.errors import BusyError, ResourceError, RunError
from dlcli.core.reading import open_regular
from dlcli.runs import lease

# The first bytes of the lock of a run, so that no other folder is ever mistaken for a run.
MARK = b"a run of dlcli\n"


@contextlib.contextmanager
def hold(run: Path) -> Iterator[None]:
    """Hold the lock of a run. BusyError (exit 9) if another process does, RunError if the run has gone."""
    try:
        descriptor = open_regular(run / "lock", os.O_RDWR | os.O_CREAT)
    except FileNotFoundError:
        raise RunError(f"there is no run {run} any more: it was moved or deleted") from None
    except OSError as error:
        kind = RunError if error.errno in (errno.EINVAL, errno.ELOOP) else ResourceError
        raise kind(f"{run / 'lock'} cannot be opened: {error.strerror}") from None
    try:
        with contextlib.ExitStack() as stack:
            if not _flocked(descriptor, run) or lease.are_asked_for():
                stack.enter_context(lease.hold(run, shown=str(run)))
            elif lease.is_held(run):
                raise _busy(run)
            if not _is_of(descriptor, run):
                raise RunError(f"there is no run {run} any more: it was moved or deleted")
            yield
    finally:
        with contextlib.suppress(OSError):  # Linux releases the lock even so
            os.close(descriptor)


def _flocked(descriptor: int, run: Path) -> bool:
    """Take the lock, and whether the file system has any. BusyError if another process has it."""
    for _ in range(5):  # `is_held` in another process holds the lock for a moment
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02)
        except OSError as error:
            if not lease.lacks_locks(error):
                raise ResourceError(f"{run / 'lock'} cannot be locked: {error.strerror}") from None
            return False
    raise _busy(run)


def _busy(run: Path) -> BusyError:
    return BusyError(f"{run} is being trained by another process")


def _is_of(descriptor: int, run: Path) -> bool:
    """Whether this open file is still the lock of the run: the folder may have been moved while we waited."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(run / "lock"))
    except FileNotFoundError:
        return False


def is_held(run: Path) -> bool:
    """Whether a process holds the lock in the folder of a run."""
    try:
        descriptor = open_regular(run / "lock")
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # there are no locks here
    finally:
        os.close(descriptor)
    return lease.is_held(run)
