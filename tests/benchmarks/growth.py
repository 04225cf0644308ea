"""Samples a second as the data set and the batch grow."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Growth with the data and with the batch"
ROUNDS = 2
ABOUT = """
Training samples a second, columns as above. First the data set grows, at batch 64 and 100; then the batch, at 4,096
images for `cnn` and 20,480 for `mlp`.
"""

# model, batch size, samples, epochs of the fast loops, whether the textbook takes part.
_ROWS = [
    ("cnn", 64, 1000, 8, True), ("cnn", 64, 10_000, 1, True), ("cnn", 64, 60_000, 1, False),
    ("mlp", 100, 1000, 60, True), ("mlp", 100, 10_000, 6, True), ("mlp", 100, 60_000, 1, True),
    *(("cnn", size, 4096, 2, True) for size in (16, 64, 256, 1024)),
    *(("mlp", size, 20_480, 4, True) for size in (16, 64, 256, 1024)),
]  # fmt: skip


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    from tests.benchmarks.loops import Work, auto_threads
    from tests.benchmarks.worker import Worker

    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name)) for name in ("textbook", "tight", "dlcli")}
        for model, batch_size, samples, epochs, textbook in _ROWS:
            name = f"{model} {batch_size}, {samples:,} images"
            if only not in name:
                continue
            work = Work(model, batch_size, samples, epochs, auto_threads(model, batch_size).train)
            jobs = {loop: workers[loop].job("train", work) for loop in ("tight", "dlcli")}
            if textbook:
                jobs["textbook"] = workers["textbook"].job("train", replace(work, epochs=1))
            found = compare(jobs, rounds=rounds, guard=guard)
            ratios = {loop: found.ratio("dlcli", loop) for loop in jobs if loop != "dlcli"}
            yield {"name": name, "threads": work.threads, "ratio": ratios, **found.as_dict()}


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        rates = cells(row, [(row["median"].get(loop), ",.0f") for loop in ("textbook", "tight", "dlcli")])
        ratios = cells(row, [(row["ratio"].get(loop), ".2f") for loop in ("textbook", "tight")])
        lines.append([row["name"], str(row["threads"]), *rates, *ratios, f"{row['noise']:.2f}"])
    header = ["model, batch, data", "threads", "textbook", "tight", "dlcli", "dlcli / textbook", "/ tight", "noise"]
    return markdown(header, lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
