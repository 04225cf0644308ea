"""The processes of a sweep on this machine, forked from one that has imported torch.

multiprocessing's fork server starts them: the driver itself imports no torch, and a worker in the place of one that was
killed costs milliseconds.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from dlcli.core.errors import ResourceError, with_code
from dlcli.sweeps.messages import receive, send

# Imported by the fork server, so that every worker has them. The first is what multiprocessing imports in each of them.
_PRELOADED = ["dlcli.__main__", "dlcli.sweeps.worker"]

# Seconds that a worker gets to end by itself when there is nothing left to do.
_PATIENCE = 10.0


@dataclass
class Worker:
    """place: which of the jobs it is, counted from 0."""

    place: int
    process: ForkServerProcess
    connection: Connection

    def send(self, do: str, **values: Any) -> None:
        """A worker that has just ended does not hear it; `Workers.heard` then says that it ended."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(self.connection, do, **values)


class Workers:
    """devices: of CUDA, one for each job; empty for what the setting `device` says."""

    def __init__(self, *, runs_dir: str | Path, jobs: int, devices: Sequence[str] = ()) -> None:
        self._runs_dir, self._jobs, self._devices = str(runs_dir), jobs, devices
        self._there: dict[int, Worker] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)

    def at(self, place: int) -> Worker:
        """The worker of a job, started if there is none."""
        if place not in self._there:
            mine, its = self._context.Pipe()
            threads = max(1, (os.cpu_count() or 1) // self._jobs)
            device = self._devices[place] if self._devices else ""
            process = self._context.Process(target=_begin, args=(its, self._runs_dir, threads, device))
            with _not_from_here():
                process.start()
            its.close()
            self._there[place] = Worker(place, process, mine)
        return self._there[place]

    def heard(self, *, seconds: float) -> Iterator[tuple[Worker, Mapping[str, Any] | None]]:
        """What the workers say within so many seconds; None for one that has ended, which is then forgotten."""
        by_source: dict[Any, Worker] = {}
        for worker in self._there.values():
            by_source |= {worker.connection: worker, worker.process.sentinel: worker}
        for worker in {id(by_source[source]): by_source[source] for source in wait(list(by_source), seconds)}.values():
            try:
                if worker.connection.poll():
                    yield worker, receive(worker.connection)
                else:
                    raise EOFError  # only its end was seen
            except EOFError:
                del self._there[worker.place]
                worker.connection.close()
                worker.process.join()
                yield worker, None

    def check(self, layers: Sequence[Mapping[str, Any]]) -> None:
        """The error of the first layer that is not valid."""
        self.at(0).send("check", layers=list(layers))
        while True:
            for _, message in self.heard(seconds=60.0):
                if message is None:
                    raise ResourceError("a process of the sweep ended while it imported torch: see above")
                if message["do"] == "refused":
                    raise with_code(message["exit_code"], message["reason"])
                return

    def close(self, *, at_once: bool = False) -> None:
        """End the workers, which ends those that train after a checkpoint, or at once."""
        for worker in self._there.values():
            worker.connection.close()
        for worker in self._there.values():
            if not at_once:
                worker.process.join(_PATIENCE)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        self._there.clear()


def how_it_ended(process: ForkServerProcess) -> str:
    """`it was killed by SIGKILL`, for a process that has ended."""
    code = process.exitcode or 0
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

    work(connection, runs_dir, threads, device)
