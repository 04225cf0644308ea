"""Starts the processes of one training on this machine, watches them, and starts them anew after a failure.

torch is imported and the data is read once, here; the processes are then forked, so that both are in memory once. They
meet in a file (see compute/ranks.py), so no port has to be free. On several machines torchrun or srun start them.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dlcli.compute.ranks import FILE
from dlcli.core.blame import out_of_memory
from dlcli.core.errors import ConfigError, DlcliError, RankError, ResourceError, with_code
from dlcli.runs.run import Run, now

# Seconds between looks at the processes, and those that the others get to end after a first failure.
_LOOK = 0.02
_GRACE = 15.0

# Bytes and lines of what a process has printed, for the message of its failure.
_MOST_READ = 4096
_LINES = 3

_PR_SET_PDEATHSIG = 1

# What each process does, with the run that a restart goes on with.
Work = Callable[[Run | None], None]


@dataclass(frozen=True)
class Failure:
    """What a process says of its end. plain: told as that of a training in one process. lost: it only saw that another
    one had ended."""

    message: str
    exit_code: int
    plain: bool = False
    lost: bool = False


@dataclass
class _Process:
    rank: int
    pid: int
    pipe: int  # to read from
    log: Path | None
    status: int | None = None  # its exit code, or minus the signal that ended it
    heard: bytes = b""

    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.heard.split(b"\n") if line]


# The pipe to the launcher, in a process that it has started.
_launcher: int | None = None


def launch(
    work: Work,
    *,
    processes: int,
    devices: Sequence[str] = (),
    max_restarts: int = 0,
    tell: Callable[[str], None],
    sentence: Callable[[BaseException], tuple[str, int]],
) -> int:
    """Call `work` in so many processes, and return the exit code of the first one.

    devices: numbers of CUDA devices, one for each
    process; empty for all that there are. max_restarts: how often all are started anew, from the last checkpoint, after
    one of them has failed. tell: called with a sentence for the user. sentence: what is told of an error, and its exit
    code.
    Raises RankError (exit 8) if a process fails alone, or what the first one raised.
    """
    if devices and len(devices) != processes:
        raise ConfigError(f"--devices names {len(devices)} devices for {processes} processes: name one for each")
    run: Run | None = None
    with tempfile.TemporaryDirectory(prefix="dlcli-ranks-") as folder, _Signals() as signals:
        for attempt in range(max_restarts + 1):
            report = partial(_report, work, run, sentence)
            started = [_start(rank, processes, Path(folder), attempt, report, devices) for rank in range(processes)]
            signals.group = [one.pid for one in started]
            try:
                _wait(started)
            finally:
                _kill(started)
            run = _run_of(started) or run
            failure = _first_failure(started)
            if signals.seen is not None and (failure is None or not failure.plain):
                return 128 + signals.seen
            if failure is None:
                return max(one.status or 0 for one in started)
            if run is not None and not failure.plain:
                _record(run, failure)
            if signals.seen is not None or failure.plain or run is None or attempt == max_restarts:
                break
            tell(f"{failure.message}; restart {attempt + 1} of {max_restarts} from the last checkpoint")
    assert failure is not None
    error = with_code(failure.exit_code, failure.message) if failure.plain else RankError(failure.message)
    if run is not None:
        error.run = run  # type: ignore[attr-defined]
    raise error


def tell_launcher(run: Run) -> None:
    """Let the launcher know the run that this process trains, if it was started by one."""
    if _launcher is not None:
        _write(_launcher, {"root": str(run.root), "run": run.number})


def _start(
    rank: int,
    size: int,
    folder: Path,
    attempt: int,
    work: Callable[[], Failure | None],
    devices: Sequence[str],
) -> _Process:
    global _launcher
    sys.stdout.flush()
    sys.stderr.flush()
    log = folder / f"{attempt}-{rank}.log" if rank else None
    read, write = os.pipe()
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        raise ResourceError(f"processes = {size}: process {rank + 1} cannot be started: {error.strerror}") from None
    if pid:
        os.close(write)
        os.set_blocking(read, False)
        return _Process(rank, pid, read, log)
    code = 1
    try:
        _launcher = write
        os.close(read)
        _end_with(parent)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        os.setpgid(0, 0)  # the launcher passes signals on, so that each arrives once
        os.environ |= {
            "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
            FILE: str(folder / f"{attempt}-meeting"),
        }  # fmt: skip
        if devices:
            os.environ["CUDA_VISIBLE_DEVICES"], os.environ["LOCAL_RANK"] = devices[rank], "0"
        if log is not None:
            _print_into(log)
        failure = work()
        code = 0 if failure is None else failure.exit_code
        if failure is not None and failure.message:
            _write(write, asdict(failure))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _report(work: Work, run: Run | None, sentence: Callable[[BaseException], tuple[str, int]]) -> Failure | None:
    """Do the work, and say how it has failed, or with which exit code it ended."""
    try:
        work(run)
    except SystemExit as asked:
        code = asked.code if isinstance(asked.code, int) else 1
        return Failure("", code) if code else None
    except BaseException as error:
        message, code = sentence(error)
        memory = isinstance(error.__cause__, Exception) and out_of_memory(error.__cause__)
        plain = (isinstance(error, DlcliError) and not memory) or isinstance(error, KeyboardInterrupt)
        return Failure(message, code, plain=plain, lost=isinstance(error, RankError))
    return None


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, so that none is left behind."""
    with contextlib.suppress(OSError, AttributeError):  # only Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _print_into(log: Path) -> None:
    """What this process prints, and what libraries print in it, goes to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _wait(started: list[_Process]) -> None:
    """Until all have ended, or the first one has failed so long ago that the others should have."""
    deadline = float("inf")
    while any(one.status is None for one in started) and time.monotonic() < deadline:
        time.sleep(_LOOK)
        for one in started:
            _look(one)
            if one.status not in (None, 0) and deadline == float("inf"):
                deadline = time.monotonic() + _GRACE


def _look(one: _Process) -> None:
    with contextlib.suppress(BlockingIOError):
        while one.pipe >= 0 and (piece := os.read(one.pipe, 65536)):
            one.heard += piece
    if one.status is None:
        pid, status = os.waitpid(one.pid, os.WNOHANG)
        if pid:
            one.status = os.waitstatus_to_exitcode(status)
            _look(one)  # what it wrote last
            os.close(one.pipe)
            one.pipe = -1


def _kill(started: list[_Process]) -> None:
    for one in started:
        if one.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
            _, status = os.waitpid(one.pid, 0)
            one.status = 0  # not a failure of its own: it was ended from here
            os.close(one.pipe)


def _first_failure(started: list[_Process]) -> Failure | None:
    """The failure to tell: not of those that only lost another process; None if there is none, as after a signal."""
    found = [(one.rank, failure) for one in started if (failure := _failure(one)) is not None]
    causes = [failure for _, failure in found if not failure.lost] or [failure for _, failure in found]
    first = dict(found).get(0)
    return first if first in causes and first is not None and first.plain else causes[0] if causes else None


def _failure(one: _Process) -> Failure | None:
    where = f"rank {one.rank} on {socket.gethostname()}"
    told = next((document for document in one.documents() if "message" in document), None)
    if told is not None:
        failure = Failure(**told)
        if failure.lost or (one.rank == 0 and failure.plain):
            return failure
        return Failure(f"{where} failed: {failure.message}", 8)
    if one.status is None or one.status == 0 or one.status > 128:
        return None  # it was asked to stop, and told so by its exit code
    if one.status > 0:
        return Failure(f"{where} ended with exit code {one.status}{_last_lines(one)}", 8)
    name = signal.Signals(-one.status).name
    memory = " (not enough memory?)" if name == "SIGKILL" else ""
    return Failure(f"{where} was killed by {name}{memory}{_last_lines(one)}", 8)


def _last_lines(one: _Process) -> str:
    if one.log is None:
        return ""
    with contextlib.suppress(OSError):
        lines = one.log.read_bytes()[-_MOST_READ:].decode(errors="replace").split("\n")
        told = [line.strip() for line in lines if line.strip()][-_LINES:]
        return f"; it printed last: {' | '.join(told)}" if told else ""
    return ""


def _run_of(started: list[_Process]) -> Run | None:
    """The run that the first process has opened."""
    found = next((document for document in started[0].documents() if "run" in document), None)
    return None if found is None else Run(Path(found["root"]), found["run"])


def _record(run: Run, failure: Failure) -> None:
    """Write the first failure into run.json: the first process may have been killed, or have seen only its echo."""
    with contextlib.suppress(DlcliError), run.locked():
        info = run.info()
        info |= {"status": "failed", "reason": failure.message, "ended": info.get("ended") or now()}
        info.pop("checksum", None)
        run.write_info(info)


def _write(pipe: int, document: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(pipe, json.dumps(document).encode() + b"\n")


class _Signals:
    """Passes signals on to the processes, and waits for them instead of ending. seen: the first of them."""

    def __init__(self) -> None:
        self.group: list[int] = []
        self.seen: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self.seen = self.seen or number
        for pid in self.group:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
