"""Samples a second of training and of evaluation, side by side."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dlcli.compute.threads import usable_cores
from tests.benchmarks.noise import Guard
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Throughput"
ROUNDS = 3
ABOUT = """
Samples a second (of text, rows of 128 characters), float32. *textbook*: torchvision, DataLoader, torch.optim, as in an
article; *2 workers*: with `num_workers=2`. *tight*: tensors in memory, a permutation, a plain step, no logging at all.
*compute*: the same with one fixed batch again and again. *dlcli*: all that `dlcli train` does once the data is read:
making the run, epochs, progress, metrics, log, and checkpoints until they are flushed to the disk. *threads*: what
dlcli chooses for it, and what all columns use; *tight, all cores*: the tight loop with a thread for each core, where
that is more.
Evaluation is loss and accuracy of the 10,000 test images (of tokens: of the training rows), *textbook* in batches of
1000, *tight* of 500, again and again for half a second at least.
"""

# model, batch size, samples of an epoch, epochs of the fast loops (the textbook's is one).
_ROWS = [
    ("cnn", 64, 6400, 1), ("cnn", 256, 7680, 1), ("lenet", 64, 6400, 3), ("lenet", 256, 7680, 3),
    ("mlp", 100, 20_000, 6), ("rnn", 64, 2560, 1), ("attention", 128, 10_240, 6),
]  # fmt: skip
_FAST = ("tight", "compute", "dlcli")


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    from tests.benchmarks.loops import IMAGES, Work, auto_threads
    from tests.benchmarks.worker import Worker

    rows = [row for row in _ROWS if only in f"{row[0]} {row[1]}"]
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name)) for name in ("textbook", "textbook-2", *_FAST)}
        for model, batch_size, samples, epochs in rows:
            threads = auto_threads(model, batch_size)
            work = Work(model, batch_size, samples, epochs, threads.train)
            once = replace(work, epochs=1)
            own = replace(work, threads=0)  # dlcli's own choice, which is the same
            jobs = {name: workers[name].job("train", own if name == "dlcli" else work) for name in _FAST}
            jobs["textbook"] = workers["textbook"].job("train", once)
            if model in IMAGES:
                jobs["textbook-2"] = workers["textbook-2"].job("train", once)
            evaluations = {
                "evaluate textbook": workers["textbook"].job("evaluate", replace(once, threads=threads.evaluate)),
                "evaluate tight": workers["tight"].job("evaluate", replace(work, threads=threads.evaluate)),
                "evaluate dlcli": workers["dlcli"].job("evaluate", own),
            }
            if threads.train < usable_cores():
                evaluations["tight-all"] = workers["tight"].job("train", replace(work, threads=usable_cores()))
            for job in (jobs | evaluations).values():
                job()  # what is built and compiled at first
            found = compare(jobs | evaluations, rounds=rounds, guard=guard)
            ratios = {name: found.ratio("dlcli", name) for name in found.values if " " not in name and name != "dlcli"}
            ratios["evaluate"] = found.ratio("evaluate dlcli", "evaluate textbook")
            row = {"name": f"{model} {batch_size}", "threads": threads.train, "samples": samples, "epochs": epochs}
            row["evaluate_threads"] = threads.evaluate
            yield row | {"ratio": ratios, **found.as_dict()}


def table(rows: list[dict[str, Any]]) -> str:
    columns = ("textbook", "textbook-2", "tight", "tight-all", "compute", "dlcli")
    header = ["model, batch", "threads", "textbook", "2 workers", "tight", "tight, all cores", "compute", "dlcli",
              "dlcli / textbook", "/ tight", "/ compute", "noise"]  # fmt: skip
    lines = []
    for row in rows:
        rates = cells(row, [(row["median"].get(name), ",.0f") for name in columns])
        ratios = cells(row, [(row["ratio"][name], ".2f") for name in ("textbook", "tight", "compute")])
        lines.append([row["name"], str(row["threads"]), *rates, *ratios, f"{row['noise']:.2f}"])
    header2 = ["evaluation of", "threads", "textbook", "tight", "dlcli", "dlcli / textbook"]
    lines2 = []
    for row in rows:
        rates = cells(row, [(row["median"][f"evaluate {name}"], ",.0f") for name in ("textbook", "tight", "dlcli")])
        lines2.append(
            [
                row["name"],
                str(row.get("evaluate_threads", row["threads"])),
                *rates,
                *cells(row, [(row["ratio"]["evaluate"], ".1f")]),
            ]
        )
    return markdown(header, lines) + "\n" + markdown(header2, lines2)


if __name__ == "__main__":
    run(sys.modules[__name__])
