"""What a checkpoint and a log cost, and what bf16 brings."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from tests.benchmarks.noise import Guard
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Checkpoints, logs, bf16"
ROUNDS = 5
ABOUT = """
*Saving and logging*: milliseconds an epoch with a new best and a last checkpoint, and as a share of an epoch of 10 s:
what the training waits for, and the processor time of the thread that writes beside it. *bf16*: training speed of
`--precision bf16` relative to float32, both dlcli.
"""

_EPOCH_MS = 10_000


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    from tests.benchmarks.loops import Work, auto_threads
    from tests.benchmarks.worker import Worker

    for model, batch_size, optimizer in (("cnn", 64, "sgd"), ("cnn", 64, "adam"), ("mlp", 100, "sgd")):
        name = f"saving and logging, {model} with {optimizer}"
        if only in name:
            values: list[dict[str, float]] = []

            def job(model: str = model, optimizer: str = optimizer, values: list[Any] = values) -> float:
                values.append(saving(model, optimizer))
                return sum(values[-1].values())

            found = compare({"milliseconds": job}, rounds=rounds, guard=guard)
            share = found.median("milliseconds") / _EPOCH_MS if found.quiet else None
            yield {"name": name, "share": share, "parts": values, **found.as_dict()}
    for model, batch_size in (("cnn", 64), ("cnn", 256)):
        name = f"bf16, {model} {batch_size}"
        if only in name:
            work = Work(model, batch_size, 6400, threads=auto_threads(model, batch_size))
            with Worker("dlcli") as plain, Worker("dlcli") as half:
                jobs = {"fp32": plain.job("train", work), "bf16": half.job("train", replace(work, precision="bf16"))}
                found = compare(jobs, rounds=rounds, guard=guard)
            yield {"name": name, "ratio": found.ratio("bf16", "fp32"), **found.as_dict()}


def saving(model: str, optimizer: str) -> dict[str, float]:
    """Milliseconds an epoch: waited for in saving, in rows and log, and the processor time of the thread beside."""
    from dlcli import TrainConfig, experiment
    from dlcli.runs import Run
    from dlcli.training.loop import fit
    from dlcli.training.saver import Saver

    epochs = 3
    config = TrainConfig(
        model=model, data="random", data_options={"samples": 640, "shape": (1, 28, 28)}, optimizer=optimizer,
        val_fraction=0.0, test_fraction=0.0, epochs=epochs,
    )  # fmt: skip
    built = experiment.build(config)
    spent = {"saving": 0.0, "logging": 0.0, "beside": 0.0}

    def timed(what: str, call: Callable[..., Any], clock: Callable[[], float]) -> Callable[..., Any]:
        def wrapper(*given: Any, **named: Any) -> Any:
            start = clock()
            try:
                return call(*given, **named)
            finally:
                spent[what] += 1000 * (clock() - start) / epochs

        return wrapper

    @contextmanager
    def watched() -> Iterator[None]:
        wall, processor = time.perf_counter, time.thread_time
        parts = [(Saver, name, "saving", wall) for name in ("keep_best", "write", "close")]
        parts += [(Saver, "_save", "beside", processor)]
        parts += [(Run, name, "logging", wall) for name in ("append_metrics", "log", "write_info")]
        patches = [mock.patch.object(c, name, timed(what, getattr(c, name), k)) for c, name, what, k in parts]
        # Every epoch saves, however short it is.
        with mock.patch("dlcli.training.saver._LEAST_SECONDS", 0.0):
            for patch in patches:
                patch.start()
            try:
                yield
            finally:
                for patch in patches:
                    patch.stop()

    with tempfile.TemporaryDirectory() as runs, watched():
        list(fit(built, Run.create(runs)))
    assert all(spent.values()), spent
    return spent


def table(rows: list[dict[str, Any]]) -> str:
    costs = [row for row in rows if "share" in row]
    lines = []
    for row in costs:
        values = cells(row, [(row["median"]["milliseconds"], ".1f"), (row["share"], ".2%")])
        lines.append([row["name"], *values, f"{row['noise']:.2f}"])
    text = markdown(["", "ms an epoch", "of 10 s", "noise"], lines) + "\n" if lines else ""
    lines = []
    for row in rows:
        if row not in costs:
            rates = [(row["median"][precision], ",.0f") for precision in ("fp32", "bf16")]
            lines.append([row["name"], *cells(row, [*rates, (row["ratio"], ".2f")]), f"{row['noise']:.2f}"])
    return text + (markdown(["", "fp32 /s", "bf16 /s", "ratio", "noise"], lines) if lines else "")


if __name__ == "__main__":
    run(sys.modules[__name__])
