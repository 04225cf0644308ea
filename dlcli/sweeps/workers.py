"""The processes of a sweep on this machine, forked from one that has imported torch.

multiprocessing's fork server starts them: the driver itself imports no torch, and a worker in the place of one that was
killed costs milliseconds.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from dlcli.core.errors import ResourceError, with_code
from dlcli.sweeps.joining import Door
from dlcli.sweeps.messages import receive, send

# Imported by the fork server, so that every worker has them. The first is what multiprocessing imports in each of them.
_PRELOADED = ["dlcli.__main__", "dlcli.sweeps.worker"]

# Seconds that a worker gets to end by itself when there is nothing left to do.
_PATIENCE = 10.0


@dataclass
class Worker:
    """place: which one it is, counted from 0. process: None if it joined from elsewhere."""

    place: int
    connection: Connection
    process: ForkServerProcess | None = None

    def send(self, do: str, **values: Any) -> None:
        """A worker that has just ended does not hear it; `Workers.heard` then says that it ended."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(self.connection, do, **values)


class Workers:
    """jobs: processes on this machine; 0 if all workers join by `door`. devices: of CUDA, one for each job; empty for
    what the setting `device` says."""

    def __init__(self, *, runs_dir: str | Path, jobs: int, devices: Sequence[str] = ()) -> None:
        self._runs_dir, self._jobs, self._devices = str(runs_dir), jobs, devices
        self._there: dict[int, Worker] = {}
        self._joined = 0
        self.door: Door | None = None
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)

    def free(self, busy: Container[int]) -> Worker | None:
        """A worker that is not among the busy ones, started if there are fewer than `jobs`; None if all are busy."""
        for place in (*range(self._jobs), *(place for place in self._there if place >= self._jobs)):
            if place not in busy:
                return self.at(place)
        return None

    def at(self, place: int) -> Worker:
        """The worker of a place, started if there is none."""
        if place not in self._there:
            mine, its = self._context.Pipe()
            threads = max(1, (os.cpu_count() or 1) // max(1, self._jobs))
            device = self._devices[place % len(self._devices)] if self._devices else ""
            process = self._context.Process(target=_begin, args=(its, self._runs_dir, threads, device))
            with _not_from_here():
                process.start()
            its.close()
            self._there[place] = Worker(place, mine, process)
        return self._there[place]

    def tell(self, place: int, do: str, **values: Any) -> None:
        """Send to the worker of a place, unless it has just ended."""
        if (worker := self._there.get(place)) is not None:
            worker.send(do, **values)

    def heard(self, *, seconds: float) -> Iterator[tuple[Worker, Mapping[str, Any] | None]]:
        """What the workers say within so many seconds; None for one that has ended, which is then forgotten."""
        by_source: dict[Any, Worker] = {}
        for worker in self._there.values():
            by_source[worker.connection] = worker
            if worker.process is not None:
                by_source[worker.process.sentinel] = worker
        bell = [] if self.door is None else [self.door.bell]
        ready = wait([*by_source, *bell], seconds)
        for worker in {id(by_source[source]): by_source[source] for source in ready if source in by_source}.values():
            try:
                if worker.connection.poll():
                    yield worker, receive(worker.connection)
                else:
                    raise EOFError  # only its end was seen
            except EOFError:
                del self._there[worker.place]
                worker.connection.close()
                if worker.process is not None:
                    worker.process.join()
                yield worker, None
        if self.door is not None:
            for connection in self.door.joined():
                place = self._jobs + self._joined
                self._joined += 1
                self._there[place] = Worker(place, connection)

    def check(self, layers: Sequence[Mapping[str, Any]]) -> None:
        """The error of the first layer that is not valid. Done by a process here, whoever trains later."""
        worker = self.at(0)
        worker.send("check", layers=list(layers))
        answer: Mapping[str, Any] | None = {}
        while answer == {}:
            for _, answer in self.heard(seconds=60.0):
                if answer is None:
                    raise ResourceError("a process of the sweep ended while it imported torch: see above")
                if answer["do"] == "refused":
                    raise with_code(answer["exit_code"], answer["reason"])
        if not self._jobs:
            self.close()

    def close(self, *, at_once: bool = False) -> None:
        """End the workers, which ends those that train after a checkpoint, or at once."""
        for worker in self._there.values():
            worker.connection.close()
        for worker in self._there.values():
            if worker.process is None:
                continue
            if not at_once:
                worker.process.join(_PATIENCE)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        self._there.clear()


def how_it_ended(worker: Worker) -> str:
    """`its process was killed by SIGKILL`, for a worker that has ended."""
    if worker.process is None:
        return "the connection to its worker ended"
    code = worker.process.exitcode or 0
    if code >= 0:
        return f"its process ended with exit code {code}"
    with contextlib.suppress(ValueError):
        told = signal.Signals(-code).name
        return f"its process was killed by {told}" + (" (not enough memory?)" if told == "SIGKILL" else "")
    return f"its process was killed by signal {-code}"


@contextlib.contextmanager
def _not_from_here() -> Iterator[None]:
    """The fork server would put the current folder, which nobody has vouched for, first on its Python path."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _begin(connection: Connection, runs_dir: str, threads: int, device: str) -> None:
    from dlcli.sweeps.worker import work

    work(connection, runs_dir, threads, device=device, alone=False)
