"""The wall time of whole processes: Fashion-MNIST, one epoch and an evaluation."""

import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.benchmarks import data
from tests.benchmarks.noise import Guard
from tests.benchmarks.process import output
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Whole processes"
ROUNDS = 2
ABOUT = """
Seconds from the start of a process to its end, float32, each with its own choice of threads. *test*: an epoch of all
60,000 training images and the evaluation of the 10,000 test images: `dlcli train --val-fraction 0 --eval test`.
*validation*: 6,000 of the 60,000 images are held out, and evaluated after training on the rest: `dlcli train` as it
comes.
"""

HELD_OUT = 6000


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    for model, batch_size in (("cnn", 64), ("mlp", 100)):
        for kind, (train, test) in {
            "test": (data.ALL, data.TEST),
            "validation": (data.ALL - HELD_OUT, HELD_OUT),
        }.items():
            name = f"{model} {batch_size}, {kind}"
            if only not in name:
                continue
            scripts = {loop: partial(script, loop, model, batch_size, train, test) for loop in ("textbook", "tight")}
            if kind == "validation":
                del scripts["tight"]
            jobs = {**scripts, "dlcli": partial(_ours, model, batch_size, held_out=kind == "validation")}
            found = compare(jobs, rounds=rounds, guard=guard)
            ratios = {loop: found.ratio("dlcli", loop) for loop in scripts}
            yield {"name": name, "ratio": ratios, **found.as_dict()}


def script(loop: str, model: str, batch_size: int, train: int, test: int) -> float:
    return seconds(
        "tests.benchmarks.peers.plain", "--loop", loop, "--model", model, "--batch-size", str(batch_size),
        "--samples", str(train), "--test", str(test),
    )  # fmt: skip


def seconds(module: str, *words: str) -> float:
    start = time.perf_counter()
    output("-m", module, *words)
    return time.perf_counter() - start


def _ours(model: str, batch_size: int, *, held_out: bool) -> float:
    root = str(data.folder())
    with tempfile.TemporaryDirectory() as runs:
        words = [model, "--data", "fashion-mnist", "--data-dir", root, "--batch-size", str(batch_size), "--epochs", "1"]
        test = [] if held_out else ["--val-fraction", "0", "--eval", "test"]
        return seconds("dlcli", "train", *words, *test, "--runs-dir", runs)


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        times = cells(row, [(row["median"].get(loop), ".1f") for loop in ("textbook", "tight", "dlcli")])
        ratios = cells(row, [(row["ratio"].get(loop), ".2f") for loop in ("textbook", "tight")])
        lines.append([row["name"], *times, *ratios, f"{row['noise']:.2f}"])
    header = ["model, batch, evaluated", "textbook s", "tight s", "dlcli s", "dlcli / textbook", "/ tight", "noise"]
    return markdown(header, lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
