"""How many CPU threads compute, and on which cores."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping

import torch

# Below this work the second thread costs more than it brings: measured, 1e8 gain a half on a quiet machine, and keep
# three quarters of one thread's speed on one whose other core is busy.
_FLOPS_WORTH_A_THREAD = 1e8
# What a user says about the place of OpenMP's threads is left as it is.
_PLACES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


def choose_threads(setting: int | str, *, device: torch.device, flops: float) -> int:
    """How many CPU threads should compute; `auto` gives a small step one, a large step every usable core.

    flops: of the part of a step that does not wait for another: a batch's, of a recurrent model a time step's.
    A function of the model, the batch and the machine alone, never of the moment: the number of threads decides
    how sums are rounded, so that runs with the same seed stay equal.
    """
    if setting != "auto":
        return int(setting)
    return 1 if device.type != "cpu" or flops < _FLOPS_WORTH_A_THREAD else usable_cores()


def usable_cores() -> int:
    """Cores that this process may run on (affinity and cgroup quota), hyper-threads not counted twice."""
    allowed = len(_cores()) or os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        allowed = min(allowed, max(1, round(int(quota) / int(period))))
    return max(1, allowed)


def places(threads: int) -> dict[int, set[int]]:
    """A core for this thread and for each that computes with it, where they are as many as the cores; else none.

    Otherwise the scheduler puts two of them on one core as soon as another process is busy on the other, and each
    waits there for the other: two trainings at once then take five times as long as one after the other. With fewer
    threads than cores nothing is bound, since two processes would choose the same cores.
    """
    cores = _cores()
    if not 1 < threads == len(cores) or any(name in os.environ for name in _PLACES):
        return {}
    team = _team()
    if len(team) != threads - 1:  # other threads are at work as well, and one cannot tell which are ours
        return {}
    return dict(zip([threading.get_native_id(), *team], cores, strict=True))


@contextlib.contextmanager
def computing(threads: int) -> Iterator[None]:
    """Inside, so many threads compute, each in its place."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with bound(places(threads)):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def bound(places: Mapping[int, set[int]]) -> Iterator[None]:
    """Keep these threads on these cores. What is started inside inherits the place of the thread that starts it."""
    before = os.sched_getaffinity(0) if places else set()
    try:
        for thread, core in places.items():
            _place(thread, core)
        yield
    finally:
        for thread in places:
            _place(thread, before)


def _team() -> list[int]:
    """The other threads that work when this one computes."""
    number, found = torch.get_num_threads(), list[int]()
    before = _worked()
    torch.ones(number << 16).sum()
    for _ in range(100):
        time.sleep(0.0002)  # until they rest: what they have worked is counted then
        after = _worked()
        after.pop(threading.get_native_id(), None)
        found = [thread for thread, worked in after.items() if worked > before.get(thread, 0)]
        if len(found) >= number - 1:
            break
    return found


def _worked() -> dict[int, int]:
    """Thread of this process -> nanoseconds on a core; empty where the kernel does not say."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open(f"/proc/self/task/{name}/schedstat") as file:
                found[int(name)] = int(file.read().split()[0])
    return found


def _place(thread: int, cpus: set[int]) -> None:
    with contextlib.suppress(OSError):  # it has ended, or the cpus are taken from us meanwhile
        os.sched_setaffinity(thread, cpus)


def _cores() -> list[set[int]]:
    """The hardware threads that this process may run on, by core; empty where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores: dict[str, set[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        cores.setdefault(_siblings(cpu), set()).add(cpu)
    return list(cores.values())


def _siblings(cpu: int) -> str:
    """The hardware threads that share the core of `cpu`, as Linux writes them; the cpu alone elsewhere."""
    try:
        with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as file:
            return file.read().strip()
    except OSError:
        return str(cpu)
