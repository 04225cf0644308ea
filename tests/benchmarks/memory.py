"""Peak resident memory of an epoch and an evaluation, each in a process of its own."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.benchmarks import data
from tests.benchmarks.noise import Guard
from tests.benchmarks.process import output
from tests.benchmarks.report import markdown, run

TITLE = "Memory"
ROUNDS = 1
ABOUT = """
Peak resident memory in MB of a process that reads the data, trains an epoch and evaluates the 10,000 test images. 50 MB
are allowed above the tight loop, which normalises in place and holds the data once. Noise does not touch it; the tight
loop gets one thread (`OMP_NUM_THREADS=1`), so that a busy machine does not stall it.
"""

_ROWS = (("mlp", 100, data.ALL), ("cnn", 64, 10_000), ("cnn", 1024, 10_000))
_LOOPS = ("tight", "dlcli")


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    for model, batch_size, samples in _ROWS:
        name = f"{model} {batch_size}, {samples:,} images"
        if only in name:
            peaks = {
                loop: answer("plain", model, batch_size, samples, "--loop", loop, OMP_NUM_THREADS="1")["peak_mb"]
                for loop in _LOOPS
            }
            yield {"name": name, "peak_mb": peaks, "noise": 1.0, "quiet": True}


def answer(peer: str, model: str, batch_size: int, samples: int, *words: str, **environment: str) -> dict[str, Any]:
    """What a peer's process says of itself (see peers/stopwatch.py)."""
    command = ["-m", f"tests.benchmarks.peers.{peer}", "--model", model]
    command += ["--batch-size", str(batch_size), "--samples", str(samples), "--test", str(data.TEST)]
    command += ["--started", str(time.perf_counter()), *words]
    found: dict[str, Any] = json.loads(output(*command, **environment).splitlines()[-1])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        peaks = row["peak_mb"]
        lines.append(
            [row["name"], *(f"{peaks[loop]:.0f}" for loop in _LOOPS), f"{peaks['dlcli'] - peaks['tight']:+.0f}"]
        )
    return markdown(["model, batch, data", *_LOOPS, "dlcli - tight"], lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
