"""dlcli on a machine one of whose cores is kept busy by another process, for several ways of waiting for it."""

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.report import cells, markdown, run

TITLE = "A busy core"
ROUNDS = 3
ABOUT = """
Training speed of dlcli relative to one thread on the quiet machine (`--threads 1`), while the machine is quiet and
while another process keeps one core busy. At least 0.7 is wanted of a busy machine. *dlcli* is as it comes: with as
many threads as cores each is kept on a core, and gives it up after 5,000 spins (`GOMP_SPINCOUNT`) of waiting. Then the
same with other counts; not bound to cores; and neither bound nor told how long to wait, as torch does it. (Only the
other process is bound to its core throughout. The noise is that of the quiet measurements.)
"""

# column -> GOMP_SPINCOUNT, and whether threads are bound
WAYS = {
    "dlcli": (None, True), "1,000": ("1000", True), "20,000": ("20000", True), "unbound": (None, False),
    "torch's own": ("unset", False),
}  # fmt: skip
_ROWS = (("cnn", 64, 6400, 1), ("lenet", 64, 12_800, 1), ("rnn", 64, 640, 1), ("mlp", 100, 20_000, 2))


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    from tests.benchmarks.loops import Work, auto_threads
    from tests.benchmarks.worker import Worker

    with contextlib.ExitStack() as stack:
        workers = {
            way: stack.enter_context(Worker("dlcli", spin=spin, bind=bind)) for way, (spin, bind) in WAYS.items()
        }
        single = stack.enter_context(Worker("dlcli"))
        for model, batch_size, samples, epochs in _ROWS:
            name = f"{model} {batch_size}"
            if only not in name:
                continue
            work = Work(model, batch_size, samples, epochs, auto_threads(model, batch_size).train)
            one = Work(model, batch_size, samples, epochs, threads=1)
            quiet = {way: worker.job("train", work) for way, worker in workers.items()}
            yield {"name": name, "threads": work.threads, **alternate(quiet, single.job("train", one), rounds, guard)}


def alternate(
    jobs: dict[str, Callable[[], float]],
    single: Callable[[], float],
    rounds: int,
    guard: Guard,
    busy: Callable[[], AbstractContextManager[None]] | None = None,
) -> dict[str, Any]:
    """Each job on the quiet and on the busy machine, in turn, relative to `single` on the quiet one."""
    busy = busy or a_busy_core
    single()
    for job in jobs.values():
        job()
    found: dict[str, dict[str, list[float]]] = {state: {name: [] for name in jobs} for state in ("quiet", "busy")}
    noises: list[float] = []
    for _ in range(2 * rounds):
        values: dict[str, dict[str, float]] = {"quiet": {}, "busy": {}}
        guard.wait()
        guard.probe()
        base = single()
        for name, job in jobs.items():
            values["quiet"][name] = job() / base
            guard.probe()
        noise = guard.take()
        with busy():
            for name, job in jobs.items():
                values["busy"][name] = job() / base
        if noise > guard.bound:
            continue
        noises.append(noise)
        for state in found:
            for name in jobs:
                found[state][name].append(values[state][name])
        if len(noises) == rounds:
            break
    if len(noises) < rounds:
        return {"quiet": False, "noise": noise, "relative": None, "values": found}
    medians = {state: {name: statistics.median(v) for name, v in by_name.items()} for state, by_name in found.items()}
    return {"quiet": True, "noise": max(noises), "relative": medians, "values": found}


@contextlib.contextmanager
def a_busy_core() -> Iterator[None]:
    """Another process that computes without end on the last of our cores."""
    core = max(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
    hog = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert hog.stdout is not None
    hog.stdout.readline()
    try:
        yield
    finally:
        hog.terminate()
        hog.communicate()


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        for state in ("quiet", "busy"):
            relative = (row["relative"] or {}).get(state, {})
            values = cells(row, [(relative.get(way), ".2f") for way in WAYS])
            lines.append([f"{row['name']}, {state}", str(row["threads"]), *values, f"{row['noise']:.2f}"])
    return markdown(["model, batch, machine", "threads", *WAYS, "noise"], lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
