"""What this machine can do: a matrix product, copies in memory, and operators that compute nothing, measured.

The roofline of Williams et al. 2009: an operator takes at least its operations at the speed of a matrix product, and
its bytes at the speed of a copy. A busy machine only slows, so the fastest of many short repetitions counts; and since
a shared machine is slow for a second now and then, they are spread over several rounds, in which all take turns.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dlcli.analysis.profile.counting import Counting
from dlcli.analysis.profile.ledger import Ledger, Owner
from dlcli.compute import devices
from dlcli.compute.devices import waiting
from dlcli.compute.threads import computing, usable_cores

_SIDES = {"cpu": (512, 1024), "cuda": (4096, 8192)}  # of the matrices
_COPIED = {"cpu": (1 << 20, 1 << 23, 1 << 28), "cuda": (1 << 26, 1 << 31)}  # bytes, read and written together
_ROUNDS = 10
_SECONDS, _FEWEST = 0.05, 3  # of each product and copy in a round: at least; repetitions of it, at least
# The speed that so many rounds reach is the limit; if the fastest round is faster by more than this, it is not steady.
_REACHED_BY, _NEARLY = 3, 0.03
_LAYERS = 20
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Limit:
    """flops: floating-point operations of a matrix product per second. copies: bytes of a copy, read and written -> of
    them per second; the last is that of the memory, the others are of caches. operator: seconds of an operator that
    computes nearly nothing, in a training step. threads: of the CPU, all that may be used. steady: whether the fastest
    round was no exception.
    """

    flops: float
    copies: dict[int, float]
    operator: float
    precision: str
    threads: int
    steady: bool = True

    @property
    def bandwidth(self) -> float:
        """Bytes of the memory per second."""
        return list(self.copies.values())[-1]

    def seconds_to_move(self, count: int) -> float:
        """That an operator needs at least to read and write so many bytes."""
        speed = next((speed for size, speed in self.copies.items() if count <= size), self.bandwidth)
        return count / speed

    def as_dict(self) -> dict[str, Any]:
        return {
            "flops_per_second": round(self.flops),
            "memory_bytes_per_second": round(self.bandwidth),
            "copies": [{"bytes": size, "bytes_per_second": round(speed)} for size, speed in self.copies.items()],
            "seconds_per_operator": self.operator,
            "precision": self.precision,
            "threads": self.threads,
            "steady": self.steady,
        }


def measure_limit(device: torch.device, *, precision: str) -> Limit:
    """Takes several seconds. precision: of the products, as in the settings."""
    cores = usable_cores()
    kind = "cuda" if device.type == "cuda" else "cpu"
    devices.set_precision(precision)
    number = _TYPES.get(precision, torch.float32)
    rounds = [
        _round(sorted({1, cores}) if device.type == "cpu" else [1], _SIDES[kind], _COPIED[kind], device, number)
        for _ in range(_ROUNDS)
    ]
    with computing(1):
        operator = _operator(device)
    found = {what: reached([each[what] for each in rounds]) for what in rounds[0]}
    flops, are_products_steady = found.pop("product")
    copies = {int(size): speed for size, (speed, _) in found.items()}
    return Limit(flops, copies, operator, precision, cores, steady=are_products_steady and list(found.values())[-1][1])


def reached(speeds: Sequence[float]) -> tuple[float, bool]:
    """The speed that three of the rounds reach, and whether no round was faster by more than 3 %. One round that is
    faster than all others is luck, as of a processor that was cold; three are what the machine can do."""
    fastest = sorted(speeds, reverse=True)
    found = fastest[:_REACHED_BY][-1]
    return found, fastest[0] <= found * (1 + _NEARLY)


def _round(
    threads: Sequence[int], sides: Sequence[int], sizes: Sequence[int], device: torch.device, number: torch.dtype
) -> dict[str | int, float]:
    """Operations per second of `product`, bytes per second of a copy of each size: of the fastest repetition, with the
    number of threads that suits it, since one is faster where the data is small."""
    found: dict[str | int, float] = {}
    for count in threads:
        with computing(count):
            for side in sides:
                found["product"] = max(found.get("product", 0.0), _product(side, device, number))
            for size in sizes:
                found[size] = max(found.get(size, 0.0), _copy(size, device))
    return found


def _product(side: int, device: torch.device, kind: torch.dtype) -> float:
    """Operations per second."""
    a, b = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
    result = torch.empty_like(a)
    return 2 * side**3 / _fastest(lambda: torch.mm(a, b, out=result), device)


def _copy(size: int, device: torch.device) -> float:
    """Bytes per second."""
    source = torch.ones(size // 8, device=device)
    target = torch.zeros_like(source)
    return size / _fastest(lambda: target.copy_(source), device)


def _operator(device: torch.device) -> float:
    """Seconds per operator of the forward and the backward pass of layers with a single number."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(1, 1), nn.ReLU()) for _ in range(_LAYERS))).to(device)
    x = torch.ones(1, 1, device=device)

    def step() -> None:
        model(x).sum().backward()

    step()
    ledger = Ledger(lambda: None)
    counting = Counting(ledger)
    with counting:
        ledger.turn(Owner("forward"))
        step()
        ledger.turn(None)
    count = sum(work.operators for work in counting.work.values())
    return min(_fastest(step, device) for _ in range(3)) / count


def _fastest(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest of several calls, after one that does not count."""
    wait = waiting(device)
    work()
    wait()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < _FEWEST or time.perf_counter() - begun < _SECONDS:
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)
