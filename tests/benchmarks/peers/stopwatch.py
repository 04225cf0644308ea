"""What each peer is asked, and what it answers: a JSON line on stdout."""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.loops import Work


class Stopwatch:
    """Times a peer in its own process. `first_step` is called after each step and counts the first time."""

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--model", required=True)
        parser.add_argument("--batch-size", type=int, required=True)
        parser.add_argument("--samples", type=int, required=True)
        parser.add_argument("--test", type=int, required=True)
        parser.add_argument("--started", type=float, help="time.perf_counter() of the parent when it started this")
        parser.add_argument("--tensors", action="store_true", help="tensors instead of torchvision's images")
        parser.add_argument("--loop", default="textbook")
        parser.add_argument("--device", default="cpu")
        self.given = given = parser.parse_args()
        self.work = Work(
            given.model, given.batch_size, given.samples, test=given.test, tensors=given.tensors, device=given.device
        )  # fmt: skip
        self._first: float | None = None

    def first_step(self, *ignored: Any, **also: Any) -> None:
        if self._first is None:
            self._first = time.perf_counter()

    def run(self, train: Callable[[], Any], evaluate: Callable[[], float], *, parameters: int) -> None:
        """Train an epoch, evaluate, and answer."""
        start = time.perf_counter()
        train()
        trained = time.perf_counter()
        accuracy = evaluate()
        end = time.perf_counter()
        began = self.given.started
        answer = {
            "train_seconds": trained - start,
            "eval_seconds": end - trained,
            "first_step": self._first - began if self._first is not None and began is not None else None,
            "accuracy": accuracy,
            "parameters": parameters,
            "peak_mb": peak_mb(),
        }
        print(json.dumps(answer), flush=True)


def peak_mb() -> float:
    """Peak resident memory of this process alone: a child's `ru_maxrss` begins with that of its parent."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) / 1024
    except (OSError, StopIteration):
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest / (2**20 if sys.platform == "darwin" else 1024)
