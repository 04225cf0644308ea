"""Many encoded images -> their pixels, in order, decoded by as many processes as there are cores.

Imports no torch. On Linux the processes are forked: they touch neither torch nor its threads, and a user's own script
is not imported again in each of them.
"""

import contextlib
import hashlib
import io
import itertools
import multiprocessing
import os
import signal
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np

from dlcli.core.errors import DataError, ResourceError
from dlcli.core.reading import open_regular
from dlcli.data.images.spans import Span, read_span
from dlcli.data.readers.pictures import MOST_BYTES, Fit, fitted, is_grey, opened, shown_size

# Pixels, and the most files, that a process decodes before it answers: long enough to be worth the asking, short enough
# that no process has to wait for another in the end.
_CHUNK_PIXELS, _MOST_FILES = 2**19, 64

# Where the content of an image is, or the content itself.
Item = Span | bytes

Decoded = tuple[list["Facts"], bytes]


class Stamp(NamedTuple):
    """What changes whenever the content of a file does: its size in bytes, and the times of its last change in ns."""

    size: int
    modified: int
    changed: int


class Facts(NamedTuple):
    """What is known of an image. stamp: of the file that it is in. height, width: as shown. problem: why it cannot be
    used, or empty."""

    stamp: Stamp
    sha256: str
    height: int
    width: int
    grey: bool
    problem: str


NO_STAMP = Stamp(-1, -1, -1)


def stamp_of(found: os.stat_result) -> Stamp | None:
    """None for anything but a regular file."""
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns) if stat.S_ISREG(found.st_mode) else None


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoded(items: Iterable[Item], fit: Fit, *, workers: int, moments: bool = False) -> Iterator[Decoded]:
    """Chunk by chunk in order: the facts of some images, and what `decode` makes of those that have no problem.
    ResourceError (exit 6) if a process dies."""
    left, size = iter(items), max(1, min(_CHUNK_PIXELS // (fit.height * fit.width), _MOST_FILES))
    chunks = iter(lambda: list(itertools.islice(left, size)), [])
    first, second = next(chunks, []), next(chunks, [])
    if not second:
        yield decode(first, fit, moments=moments)
        return
    with told_of_death(), decoders(workers) as pool:
        ahead: deque[Future[Decoded]] = deque()
        for chunk in itertools.chain((first, second), chunks):
            ahead.append(pool.submit(decode, chunk, fit, moments=moments))
            if len(ahead) > 4 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextlib.contextmanager
def decoders(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that decode; what they have not begun is dropped in the end."""
    pool = new_pool(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def new_pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),))


@contextlib.contextmanager
def told_of_death() -> Iterator[None]:
    """ResourceError (exit 6) if a process dies, or none can be started."""
    try:
        yield
    except BrokenProcessPool:
        raise ResourceError(
            "a process that decodes images died, killed or for lack of memory: try again with more of it free, or with "
            "fewer --workers"
        ) from None
    except OSError as error:
        raise ResourceError(f"no process can be started to decode images: {error.strerror}") from None


def decode(items: Sequence[Item], fit: Fit | None, *, moments: bool = False) -> Decoded:
    """As `decoded`, in this process: uint8 pixels (n, height, width, channels), or with `moments` int64 (n, 2,
    channels), the sum of the pixels and of their squares.

    fit: None for facts alone; damage is then not found.
    """
    facts, made = [], bytearray()
    for item in items:
        fact, pixels = _one(item, fit)
        facts.append(fact)
        if pixels is not None:
            made += _moments(pixels) if moments else pixels.tobytes()
    return facts, bytes(made)


def _one(item: Item, fit: Fit | None) -> tuple[Facts, np.ndarray[Any, Any] | None]:
    try:
        stamp, content = _content(item)
    except OSError as error:
        return Facts(NO_STAMP, "", 0, 0, False, f"cannot be read: {error.strerror}"), None
    digest, height, width, grey = hashlib.sha256(content).hexdigest(), 0, 0, False
    try:
        with opened(io.BytesIO(content), "file") as image:
            (height, width), grey = shown_size(image), is_grey(image)
            pixels = None if fit is None else fitted(image, "file", fit)
    except DataError as error:
        return Facts(stamp, digest, height, width, grey, str(error).removeprefix("file ")), None
    return Facts(stamp, digest, height, width, grey, ""), pixels


def _moments(pixels: np.ndarray[Any, Any]) -> bytes:
    flat = pixels.reshape(-1, pixels.shape[-1])
    counts = np.stack([np.bincount(flat[:, c], minlength=256) for c in range(flat.shape[1])])
    values = np.arange(256)
    return np.stack([counts @ values, counts @ values**2]).astype(np.int64).tobytes()


def _content(item: Item) -> tuple[Stamp, bytes]:
    if isinstance(item, bytes):
        return NO_STAMP, item
    named = item.size >= 0  # an archive is named by the user, and may be a link; a file in a folder may not
    with open(open_regular(item.path, follow=named), "rb") as file:
        stamp = stamp_of(os.fstat(file.fileno()))
        assert stamp is not None
        return stamp, read_span(file, item, most=MOST_BYTES + 1)


def _begin(parent: int) -> None:
    """In a new process: signals and files are left to the parent, and the process ends when the parent does, however it
    ends."""
    _leave_files()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _leave_files() -> None:
    """A fork inherits all open files of its parent, and with the lock file of a run its lock. They are replaced, not
    closed: objects of the parent still have their numbers."""
    if sys.platform != "linux":
        return
    null = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the folder that is listed is closed by now
            if number > 2 and stat.S_IFMT(os.fstat(number).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                os.dup2(null, number)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
