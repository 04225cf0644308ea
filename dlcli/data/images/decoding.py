"""Many image files -> their pixels, in the order of the files, decoded by as many processes as there are cores.

Imports no torch. On Linux the processes are forked: they touch neither torch nor its threads, and a user's own script
is not imported again in each of them.
"""

import hashlib
import io
import multiprocessing
import os
import signal
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from dlcli.core.errors import DataError, ResourceError
from dlcli.core.reading import open_regular
from dlcli.data.readers.pictures import MOST_BYTES, Fit, fitted, is_grey, opened, shown_size

# Files that a process decodes before it answers.
_CHUNK = 32


class Stamp(NamedTuple):
    """What changes whenever the content of a file does: its size in bytes, and the times of its last change in ns."""

    size: int
    modified: int
    changed: int


class Facts(NamedTuple):
    """What is known of an image file. height, width: as shown. problem: why it cannot be used, or empty."""

    stamp: Stamp
    sha256: str
    height: int
    width: int
    grey: bool
    problem: str


def stamp_of(found: os.stat_result) -> Stamp | None:
    """None for anything but a regular file."""
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns) if stat.S_ISREG(found.st_mode) else None


def decoded(paths: Sequence[str], fit: Fit) -> Iterator[tuple[list[Facts], bytes]]:
    """Chunk by chunk in order: the facts of some files, and the uint8 pixels (n, height, width, channels) of those that
    have no problem. ResourceError (exit 6) if a process dies."""
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    if len(chunks) == 1:
        yield decode(chunks[0], fit)
        return
    forks = sys.platform == "linux"
    pool = ProcessPoolExecutor(
        min(len(chunks), _cores()),
        mp_context=multiprocessing.get_context("fork" if forks else "spawn"),
        initializer=_begin,
        initargs=(os.getpid(),),
    )
    ahead: deque[tuple[str, Future[tuple[list[Facts], bytes]]]] = deque()
    try:
        for chunk in chunks:
            ahead.append((chunk[0], pool.submit(decode, chunk, fit)))
            if len(ahead) > 4 * _cores():
                yield ahead.popleft()[1].result()
        while ahead:
            yield ahead.popleft()[1].result()
    except BrokenProcessPool:
        raise ResourceError(
            "a process that decodes images died, killed or for lack of memory: try again with more of it free"
        ) from None
    except OSError as error:
        raise ResourceError(f"no process can be started to decode images: {error.strerror}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def decode(paths: Sequence[str], fit: Fit | None) -> tuple[list[Facts], bytes]:
    """As `decoded`, in this process. fit: None for facts alone; damage is then not found."""
    facts, pixels = [], bytearray()
    for path in paths:
        fact, found = _one(path, fit)
        facts.append(fact)
        pixels += found
    return facts, bytes(pixels)


def _one(path: str, fit: Fit | None) -> tuple[Facts, bytes]:
    try:
        stamp, content = _read(path)
    except OSError as error:
        return Facts(Stamp(-1, -1, -1), "", 0, 0, False, f"cannot be read: {error.strerror}"), b""
    digest, height, width, grey = hashlib.sha256(content).hexdigest(), 0, 0, False
    try:
        with opened(io.BytesIO(content), path) as image:
            (height, width), grey = shown_size(image), is_grey(image)
            pixels = b"" if fit is None else fitted(image, path, fit).tobytes()
    except DataError as error:
        return Facts(stamp, digest, height, width, grey, str(error).removeprefix(f"{path} ")), b""
    return Facts(stamp, digest, height, width, grey, ""), pixels


def _read(path: str) -> tuple[Stamp, bytes]:
    with open(open_regular(path), "rb") as file:
        stamp = stamp_of(os.fstat(file.fileno()))
        assert stamp is not None
        return stamp, file.read(min(stamp.size, MOST_BYTES) + 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(parent: int) -> None:
    """In a new process: signals are left to the parent, and the process ends when the parent does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
