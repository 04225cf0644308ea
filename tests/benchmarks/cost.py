"""What a checkpoint and a log cost, and what bf16 brings."""

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from tests.benchmarks.noise import Guard
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Checkpoints, logs, bf16"
ROUNDS = 5
ABOUT = """
*Saving and logging*: milliseconds in which a run of one epoch waits for its checkpoints, until the best and the last
are flushed to the disk, and for its rows, log and records; and that as a share of an epoch of 10 s. (In a longer run
the next epoch trains while a checkpoint is written.) *bf16*: training speed of
`--precision bf16` relative to float32, both dlcli.
"""

_EPOCH_MS = 10_000


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    from tests.benchmarks.loops import Work, auto_threads
    from tests.benchmarks.worker import Worker

    for model, optimizer in (("cnn", "sgd"), ("cnn", "adam"), ("mlp", "sgd")):
        name = f"saving and logging, {model} with {optimizer}"
        if only in name:
            saving(model, optimizer)  # what is imported and allocated at first
            found = compare({"ms": partial(saving, model, optimizer)}, rounds=rounds, guard=guard)
            yield {"name": name, "share": found.median("ms whole") / _EPOCH_MS, **found.as_dict()}
    for model, batch_size in (("cnn", 64), ("cnn", 256)):
        name = f"bf16, {model} {batch_size}"
        if only in name:
            work = Work(model, batch_size, 6400, threads=auto_threads(model, batch_size).train)
            with Worker("dlcli") as plain, Worker("dlcli") as half:
                jobs = {"fp32": plain.job("train", work), "bf16": half.job("train", replace(work, precision="bf16"))}
                found = compare(jobs, rounds=rounds, guard=guard)
            yield {"name": name, "ratio": found.ratio("bf16", "fp32"), **found.as_dict()}


def saving(model: str, optimizer: str) -> dict[str, float]:
    """Milliseconds in which the training of one epoch waits for its checkpoints and its records."""
    from dlcli import TrainConfig
    from dlcli.experiment.build import build
    from dlcli.runs.run import Run
    from dlcli.training.saver import Saver
    from tests.trained import fit_new

    config = TrainConfig(
        model=model, data="random", data_options={"samples": 640, "shape": (1, 28, 28)}, optimizer=optimizer,
        val_fraction=0.0, test_fraction=0.0, epochs=1,
    )  # fmt: skip
    built = build(config)
    spent = {"saving": 0.0, "logging": 0.0}

    def timed(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                spent[what] += 1000 * (time.perf_counter() - start)

        return wrapper

    parts = [(Saver, name, "saving") for name in ("keep_best", "write", "close")]
    parts += [(Run, name, "logging") for name in ("append_metrics", "log", "write_info")]
    with tempfile.TemporaryDirectory() as runs, contextlib.ExitStack() as stack:
        for owner, name, what in parts:
            stack.enter_context(mock.patch.object(owner, name, timed(what, getattr(owner, name))))
        fit_new(built, Path(runs))
    assert all(spent.values()), spent
    return spent | {"whole": sum(spent.values())}


def table(rows: list[dict[str, Any]]) -> str:
    costs = [row for row in rows if "share" in row]
    lines = []
    for row in costs:
        times = [(row["median"][f"ms {part}"], ".1f") for part in ("saving", "logging")]
        values = cells(row, [*times, (row["share"], ".2%")])
        lines.append([row["name"], *values, f"{row['noise']:.2f}"])
    text = markdown(["", "saving ms", "logging ms", "of 10 s", "noise"], lines) + "\n" if lines else ""
    lines = []
    for row in rows:
        if row not in costs:
            rates = [(row["median"][precision], ",.0f") for precision in ("fp32", "bf16")]
            lines.append([row["name"], *cells(row, [*rates, (row["ratio"], ".2f")]), f"{row['noise']:.2f}"])
    return text + (markdown(["", "fp32 /s", "bf16 /s", "ratio", "noise"], lines) if lines else "")


if __name__ == "__main__":
    run(sys.modules[__name__])
