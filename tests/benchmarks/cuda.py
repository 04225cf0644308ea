"""`make bench-cuda`: dlcli against the tight loop and against pure compute on a GPU."""

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.benchmarks import data
from tests.benchmarks.memory import answer
from tests.benchmarks.noise import Guard, matrix_product
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "On a GPU"
ROUNDS = 3
ABOUT = """
Training samples a second (of text, rows of 128 characters), columns as under Throughput; data, permutation and sums of
all three are on the device. *first step*: seconds from the start of a process to the end of its first step.
"""

# model, samples of an epoch, epochs, batch sizes, precisions
_ROWS = (
    ("cnn", data.ALL, 1, (64, 256, 1024), ("fp32", "tf32", "bf16")),
    ("lenet", data.ALL, 1, (64, 1024), ("fp32", "bf16")),
    ("mlp", data.ALL, 1, (100, 1024), ("fp32", "bf16")),
    ("rnn", 2560, 2, (16, 128), ("fp32", "bf16")),
    ("attention", 61_440, 1, (128, 1024), ("fp32", "tf32", "bf16")),
)
_LOOPS = ("tight", "compute", "dlcli")


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    from tests.benchmarks.loops import Work
    from tests.benchmarks.worker import Worker

    guard = Guard(bound=guard.bound, work=matrix_product(cores=1))  # one core feeds the GPU
    if only in "first step, mlp 100":
        jobs = {loop: partial(_first_step, loop) for loop in ("tight", "dlcli")}
        found = compare(jobs, rounds=rounds, guard=guard)
        yield {"name": "first step, mlp 100", "ratio": {"tight": found.ratio("dlcli", "tight")}, **found.as_dict()}
    with contextlib.ExitStack() as stack:
        workers = {loop: stack.enter_context(Worker(loop)) for loop in _LOOPS}
        for model, samples, epochs, sizes, precisions in _ROWS:
            for batch_size in sizes:
                for precision in precisions:
                    name = f"{model} {batch_size}, {precision}"
                    if only in name:
                        work = Work(model, batch_size, samples, epochs, 1, precision, "cuda")
                        jobs = {loop: worker.job("train", work) for loop, worker in workers.items()}
                        found = compare(jobs, rounds=rounds, guard=guard)
                        ratios = {loop: found.ratio("dlcli", loop) for loop in ("tight", "compute")}
                        yield {"name": name, "ratio": ratios, **found.as_dict()}


def _first_step(loop: str) -> float:
    found = answer("plain", "mlp", 100, 10_000, "--loop", loop, "--device", "cuda")
    return float(found["first_step"])


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        shape = ".2f" if row["name"].startswith("first step") else ",.0f"
        rates = cells(row, [(row["median"].get(loop), shape) for loop in _LOOPS])
        ratios = cells(row, [(row["ratio"].get(loop), ".2f") for loop in ("tight", "compute")])
        lines.append([row["name"], *rates, *ratios, f"{row['noise']:.2f}"])
    return markdown(["model, batch, precision", *_LOOPS, "dlcli / tight", "/ compute", "noise"], lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
