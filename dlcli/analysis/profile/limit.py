"""What this machine can do: a matrix product, copies in memory, and operators that compute nothing, measured.

The roofline of Williams et al. 2009: an operator takes at least its operations at the speed of a matrix product, and
its bytes at the speed of a copy. Of each, the fastest of several repetitions counts, since a busy machine only slows.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dlcli.analysis.profile.counting import Counting
from dlcli.analysis.profile.ledger import Ledger, Owner
from dlcli.compute import devices
from dlcli.compute.devices import waiting
from dlcli.compute.threads import computing, usable_cores

_SIDES = {"cpu": (1024,), "cuda": (4096, 8192)}  # of the matrices
_COPIED = {"cpu": (1 << 20, 1 << 23, 1 << 28), "cuda": (1 << 26, 1 << 31)}  # bytes, read and written together
# A fastest repetition is confirmed when so many are nearly as fast; at most so many seconds are waited for that.
_CONFIRMED, _NEARLY, _LEAST_SECONDS, _MOST_SECONDS = 3, 1.03, 0.3, 1.0
_LAYERS = 20
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Limit:
    """flops: floating-point operations of a matrix product per second. copies: bytes of a copy, read and written -> of
    them per second; the last is that of the memory, the others are of caches. operator: seconds of an operator that
    computes nearly nothing, in a training step. threads: of the CPU, all that may be used.
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
    """Takes a few seconds. precision: of the products, as in the settings."""
    cores = usable_cores()
    kind = "cuda" if device.type == "cuda" else "cpu"
    devices.set_precision(precision)
    speeds: dict[str | int, list[tuple[float, bool]]] = {}
    for threads in {1, cores} if device.type == "cpu" else {1}:  # one is faster where the data is small, or others work
        with computing(threads):
            for side in _SIDES[kind]:
                speeds.setdefault("product", []).append(_product(side, device, _TYPES.get(precision, torch.float32)))
            for size in _COPIED[kind]:
                speeds.setdefault(size, []).append(_copy(size, device))
    with computing(1):
        operator = _operator(device)
    product = max(speeds.pop("product"))
    copies = {int(size): max(found) for size, found in speeds.items()}
    return Limit(
        flops=product[0],
        copies={size: speed for size, (speed, _) in copies.items()},
        operator=operator,
        precision=precision,
        threads=cores,
        steady=product[1] and list(copies.values())[-1][1],
    )


def _product(side: int, device: torch.device, kind: torch.dtype) -> tuple[float, bool]:
    """Operations per second, and whether they are confirmed."""
    a, b = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
    result = torch.empty_like(a)
    seconds, confirmed = _fastest(lambda: torch.mm(a, b, out=result), device)
    return 2 * side**3 / seconds, confirmed


def _copy(size: int, device: torch.device) -> tuple[float, bool]:
    """Bytes per second, and whether they are confirmed."""
    source = torch.ones(size // 8, device=device)
    target = torch.zeros_like(source)
    seconds, confirmed = _fastest(lambda: target.copy_(source), device)
    return size / seconds, confirmed


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
    return _fastest(step, device)[0] / count


def _fastest(work: Callable[[], Any], device: torch.device) -> tuple[float, bool]:
    """Seconds of the fastest of several calls, after one that does not count, and whether it was no exception."""
    wait = waiting(device)
    work()
    wait()
    times: list[float] = []
    begun = time.perf_counter()
    while True:
        start = time.perf_counter()
        work()
        wait()
        end = time.perf_counter()
        times.append(end - start)
        if end - begun < _LEAST_SECONDS:
            continue
        confirmed = sum(t <= _NEARLY * min(times) for t in times) >= _CONFIRMED
        if confirmed or end - begun > _MOST_SECONDS:
            return min(times), confirmed
