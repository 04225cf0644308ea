"""Intercepts every call with which a process changes files in a folder, so that a test can kill, fail or record it.

`watched` intercepts the calls of this process. `forked` runs a function in a child process, which takes milliseconds
since torch is already loaded. `at_each_call` combines both. A write is split in two, so that partially written files
occur. `Disk` models what may remain after a power failure.
"""

import builtins
import contextlib
import io
import mmap
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from dlcli.core.errors import DlcliError


@dataclass(frozen=True)
class Call:
    """name: open, write, truncate, fsync, close, mkdir, rename, link, unlink, rmdir, or read for an open for reading.
    path: the file; target: the new name for a rename or link. content: bytes that are written. size: after a truncate.
    """

    name: str
    path: Path
    target: Path | None = None
    content: bytes = b""
    size: int = 0


CHANGES = ("open", "write", "truncate", "mkdir", "rename", "link", "unlink", "rmdir")
ALL = (*CHANGES, "read", "fsync", "close")

Hook = Callable[[Call], None]


@contextlib.contextmanager
def watched(folder: Path, before: Hook) -> Iterator[None]:
    """Call `before` with each call, before it is applied to a path in `folder`."""
    folder = folder.absolute()
    names: dict[int, Path] = {}  # of open descriptors
    names_of_calls = ("open", "close", "fsync", "mkdir", "rename", "link", "unlink", "rmdir", "truncate")
    real = {name: getattr(os, name) for name in names_of_calls}

    def see(name: str, path: Any, target: Any = None, *, base: int | None = None, **details: Any) -> None:
        path = full(path, base)
        if path is not None and path.is_relative_to(folder):
            before(Call(name, path, None if target is None else full(target, None), **details))

    def full(path: Any, base: int | None) -> Path | None:
        if isinstance(path, int):
            return names.get(path)
        parent = Path.cwd() if base is None else names.get(base, Path("/nowhere"))
        return parent / os.fsdecode(path)

    def os_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        writes = flags & (os.O_CREAT | os.O_TRUNC)
        see("open" if writes else "read", path, base=dir_fd)
        descriptor: int = real["open"](path, flags, mode, dir_fd=dir_fd)
        found = full(path, dir_fd)
        assert found is not None
        names[descriptor] = found
        return descriptor

    def os_close(descriptor: int) -> None:
        try:
            see("close", descriptor)
        finally:
            names.pop(descriptor, None)
            real["close"](descriptor)

    def on_path(name: str) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, dir_fd: int | None = None, **named: Any) -> Any:
            see(name, path, base=dir_fd)
            return real[name](path, *rest, dir_fd=dir_fd, **named)

        return call

    def on_two(name: str) -> Callable[..., Any]:
        def call(source: Any, target: Any, **named: Any) -> Any:
            see(name, source, target)
            return real[name](source, target, **named)

        return call

    def os_fsync(descriptor: int) -> None:
        see("fsync", descriptor)
        real["fsync"](descriptor)

    def os_truncate(path: Any, size: int) -> None:
        see("truncate", path, size=size)
        real["truncate"](path, size)

    real_open = builtins.open

    def any_open(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        found = full(path, None)
        if found is None or not found.is_relative_to(folder) or named.get("opener"):
            return real_open(path, mode, *rest, **named)
        writes = set(mode) & set("wxa+")
        if not isinstance(path, int):  # otherwise it was seen when it was opened
            see("open" if writes else "read", path)
        if not writes:
            file = real_open(path, mode, *rest, **named)
            names[file.fileno()] = found
            return file
        file = real_open(path, mode, *rest, **named)
        names[file.fileno()] = found
        if "w" in mode:
            see("truncate", path)
        return _File(file, found, see, names)

    patches = {
        "open": os_open, "close": os_close, "fsync": os_fsync, "truncate": os_truncate,
        "rename": on_two("rename"), "replace": on_two("rename"), "link": on_two("link"),
        "mkdir": on_path("mkdir"), "unlink": on_path("unlink"), "remove": on_path("unlink"), "rmdir": on_path("rmdir"),
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name, function in patches.items():
            stack.enter_context(mock.patch.object(os, name, function))
        for module in (builtins, io):
            stack.enter_context(mock.patch.object(module, "open", any_open))
        yield


class _File:
    """A file that is open for writing; each write is made as two writes."""

    def __init__(self, file: Any, path: Path, see: Callable[..., None], names: dict[int, Path]) -> None:
        self._file, self._path, self._see, self._names = file, path, see, names

    def write(self, content: Any) -> int:
        middle = len(content) // 2
        for part in (content[:middle], content[middle:]):
            if part:
                self._see("write", self._path, content=part.encode() if isinstance(part, str) else bytes(part))
                self._file.write(part)
                self._file.flush()
        return len(content)

    def truncate(self, size: int) -> None:
        self._see("truncate", self._path, size=size)
        self._file.truncate(size)

    def close(self) -> None:
        if not self._file.closed:
            try:
                self._see("close", self._path)
            finally:
                self._names.pop(self._file.fileno(), None)
                self._file.close()

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def forked(action: Callable[[], object]) -> int:
    """Run `action` in a child process. Returns 0, the exit code of its error, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(forked_away(action), 0)[1])


def forked_away(action: Callable[[], object]) -> int:
    """Start `action` in a child process and return its id.

    An error that is neither a DlcliError nor an OSError gives exit code 1 and a traceback.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads in this process; none of them holds a lock
        process = os.fork()
    if process:
        return process
    code = 1
    try:
        action()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except DlcliError as error:
        code = error.exit_code
    except OSError:
        code = 6
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class Dlcli:
    """A `dlcli` process that is forked, so that it need not load torch; its output is in `told`.

    before: called first in the child, for example to inject a fault.
    """

    def __init__(self, root: Path, *words: str, before: Callable[[], object] = lambda: None) -> None:
        self.file = root.parent / f"told-{time.monotonic_ns()}"
        self.file.touch()

        def action() -> None:
            with open(self.file, "w") as told, contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                from dlcli.cli.main import app

                os.environ["DLCLI_THREADS"] = "1"  # OpenMP's threads do not survive a fork
                before()
                app([*words, "--runs-dir", str(root)])

        self.pid = forked_away(action)

    @property
    def told(self) -> str:
        return self.file.read_text()

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def ended(self) -> bool:
        """Whether it has ended; it can still be waited for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failing(number: int) -> Callable[[], None]:
    """A function that makes a call fail with this errno."""

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def at_each_call(
    folder: Path,
    action: Callable[[Path], object],
    check: Callable[[Path, int], object],
    *,
    prepare: Callable[[Path], object] = lambda folder: None,
    act: Callable[[], None] = die,
    also: Callable[[Call], bool] = lambda call: False,
    kinds: Collection[str] = CHANGES,
    first: int = 0,
    step: int = 1,
) -> int:
    """Run `action` repeatedly, each time in a new folder and with `act` before a different call, and `check` it.

    Returns the number of calls. prepare: fills the folder first. check: called with the folder and the exit code.
    also: later calls before which `act` is called too. kinds: names of the calls that count; a kill before a call that
    changes nothing equals one before the next call that does. first, step: first call that is tried, and stride.
    """
    seen = mmap.mmap(-1, 8)  # shared with the child process, which counts
    k = first
    while True:
        place = folder / f"call-{k}"
        place.mkdir(parents=True)
        prepare(place)

        def before(call: Call, k: int = k) -> None:
            if call.name not in kinds:
                return
            number = int.from_bytes(seen[:], "little")
            seen[:] = (number + 1).to_bytes(8, "little")
            if number == k or (number > k and also(call)):
                act()

        def run(place: Path = place, before: Hook = before) -> None:
            with watched(place, before):
                action(place)

        seen[:] = bytes(8)
        code = forked(run)
        try:
            check(place, code)
        except BaseException as error:
            error.add_note(f"at call {k}, in {place}")
            raise
        shutil.rmtree(place)
        calls = int.from_bytes(seen[:], "little")
        if calls <= k:
            return calls
        k += step


class Disk:
    """The content of the disk after a series of calls, as far as it was flushed."""

    def __init__(self, folder: Path) -> None:
        """Start with the content of `folder`, all of it flushed."""
        self.folder = folder.absolute()
        self.root = _load(self.folder)

    def apply(self, call: Call) -> None:
        if call.name in ("read", "close"):
            return
        parent, name = self._find(call.path.parent), call.path.name
        here = self.root if call.path == self.folder else parent.entries.get(name)
        if call.name == "open" and here is None:
            parent.entries[name] = _Node()
        elif call.name == "mkdir" and here is None:
            parent.entries[name] = _Node(folder=True)
        elif here is None:
            return
        elif call.name == "write":
            here.content += call.content
        elif call.name == "truncate":
            here.content = here.content[: call.size]
        elif call.name == "fsync":
            here.flushed, here.flushed_entries = here.content, dict(here.entries)
        elif call.name in ("rename", "link"):
            assert call.target is not None
            self._find(call.target.parent).entries[call.target.name] = here
            if call.name == "rename":
                del parent.entries[name]
        elif call.name in ("unlink", "rmdir"):
            del parent.entries[name]

    def lose_power(self, target: Path, *, names: bool) -> None:
        """Write into `target` what may remain: only flushed content, and either all names or only flushed names."""
        _save(self.root, target, names)

    def _find(self, path: Path) -> "_Node":
        node = self.root
        for part in path.relative_to(self.folder).parts if path != self.folder.parent else ():
            node = node.entries[part]
        return node


@dataclass(eq=False)
class _Node:
    """A file or folder: its current state, and that of the last flush."""

    folder: bool = False
    content: bytes = b""
    flushed: bytes = b""
    entries: dict[str, "_Node"] = field(default_factory=dict)
    flushed_entries: dict[str, "_Node"] = field(default_factory=dict)


def _load(path: Path) -> _Node:
    if path.is_dir():
        entries = {p.name: _load(p) for p in path.iterdir()}
        return _Node(folder=True, entries=entries, flushed_entries=dict(entries))
    content = path.read_bytes()
    return _Node(content=content, flushed=content)


def _save(node: _Node, target: Path, names: bool) -> None:
    if not node.folder:
        target.write_bytes(node.flushed)
        return
    target.mkdir()
    for name, inner in (node.entries if names else node.flushed_entries).items():
        _save(inner, target / name, names)
