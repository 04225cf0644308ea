"""How many CPU threads compute, and on which cores."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping

import torch

# Below this work a second thread does not pay. Measured at 1e8: 1.5 times the speed of one thread on a quiet machine,
# and three quarters of it while another process keeps a core busy.
_FLOPS_WORTH_A_THREAD = 1e8
# If the user has set one of these, threads are not bound to cores.
_PLACES = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


def choose_threads(setting: int | str, *, device: torch.device, flops: float, processes: int = 1) -> int:
    """The number of CPU threads; `auto` is one for a small step and all usable cores for a large one.

    flops: work that can be done in parallel: of a batch, or, in a recurrent model, of one time step. processes: those
    on this machine that train together, and share its cores.
    The result depends on the model, the batch and the machine only, not on its load: the number of threads determines
    how sums are rounded, and runs with the same seed must agree.
    """
    if setting != "auto":
        return int(setting)
    return 1 if device.type != "cpu" or flops < _FLOPS_WORTH_A_THREAD else max(1, usable_cores() // processes)


def usable_cores() -> int:
    """Number of cores that this process may use (affinity and cgroup quota); hyper-threads of a core count once."""
    allowed = len(_cores()) or os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        allowed = min(allowed, max(1, round(int(quota) / int(period))))
    return max(1, allowed)


def places(threads: int) -> dict[int, set[int]]:
    """Thread -> hardware threads of its core, for this thread and the OpenMP threads that compute with it; empty unless
    there are as many threads as cores.

    Without binding, the scheduler puts two of them on one core as soon as another process is busy on the other, where
    each waits for the other: two trainings at once then take five times as long as one after the other. With fewer
    threads than cores nothing is bound, since two processes would choose the same cores.
    """
    cores = _cores()
    if not 1 < threads == len(cores) or any(name in os.environ for name in _PLACES):
        return {}
    team = _team()
    if len(team) != threads - 1:  # other threads are working too, and it is unknown which ones are OpenMP's
        return {}
    return dict(zip([threading.get_native_id(), *team], cores, strict=True))


@contextlib.contextmanager
def computing(threads: int) -> Iterator[None]:
    """Inside the block, this many threads compute, each bound to a core where `places` says so."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with bound(places(threads)):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def bound(places: Mapping[int, set[int]]) -> Iterator[None]:
    """Bind these threads to these cores. A thread inherits the binding of the one that starts it."""
    before = os.sched_getaffinity(0) if places else set()
    try:
        for thread, core in places.items():
            _place(thread, core)
        yield
    finally:
        for thread in places:
            _place(thread, before)


def _team() -> list[int]:
    """The other threads that work while this one computes."""
    number, found = torch.get_num_threads(), list[int]()
    before = _worked()
    torch.ones(number << 16).sum()
    for _ in range(100):
        time.sleep(0.0002)  # until they sleep: only then does the kernel count their time
        after = _worked()
        after.pop(threading.get_native_id(), None)
        found = [thread for thread, worked in after.items() if worked > before.get(thread, 0)]
        if len(found) >= number - 1:
            break
    return found


def _worked() -> dict[int, int]:
    """Thread of this process -> nanoseconds on a core; empty if the kernel does not report it."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open(f"/proc/self/task/{name}/schedstat") as file:
                found[int(name)] = int(file.read().split()[0])
    return found


def _place(thread: int, cpus: set[int]) -> None:
    with contextlib.suppress(OSError):  # the thread has ended, or the process has lost these cores
        os.sched_setaffinity(thread, cpus)


def _cores() -> list[set[int]]:
    """The hardware threads that this process may use, grouped by core; empty if the system does not report them."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores: dict[str, set[int]] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        cores.setdefault(_siblings(cpu), set()).add(cpu)
    return list(cores.values())


def _siblings(cpu: int) -> str:
    """The hardware threads that share the core of `cpu`, as Linux writes them; on other systems `cpu` alone."""
    try:
        with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as file:
            return file.read().strip()
    except OSError:
        return str(cpu)
