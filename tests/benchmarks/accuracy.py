"""How long until an accuracy is reached, and what bf16 does to it: whole trainings, several seeds."""

import csv
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.process import output
from tests.benchmarks.report import cells, markdown, run

TITLE = "Time to accuracy"
ROUNDS = 5
ABOUT = """
`dlcli train` and `dlcli eval --split test` with so many seeds: test accuracy in per cent and seconds of training, each
as the mean and, in brackets, the smallest and the largest. Nothing here was chosen by the test set: the recipes were
found on 6,000 validation images (performance-log.md), which are held out of the training here as well. *bf16* and
*float32* are two epochs of `cnn` on Fashion-MNIST that differ in `--precision` alone. Where a data set is not in
`DLCLI_DATA_DIR` its rows are missing.
"""

_TWO_EPOCHS = ("cnn", "--data", "fashion-mnist", "--epochs", "2", "--schedule", "one-cycle", "--lr", "0.05")
_ROWS = {
    "recipe:mnist-fast": ("--config", "recipe:mnist-fast"),
    "recipe:fashion-fast": ("--config", "recipe:fashion-fast"),
    "cnn, float32": _TWO_EPOCHS,
    "cnn, bf16": (*_TWO_EPOCHS, "--precision", "bf16"),
}
_FOLDERS = {"recipe:mnist-fast": "MNIST"}


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    from tests.benchmarks import data

    for name, words in _ROWS.items():
        if only not in name or not data.there(_FOLDERS.get(name, "FashionMNIST")):
            continue
        guard.wait()
        trained = []
        for seed in range(rounds):
            trained.append(_trained(*words, "--seed", str(seed)))
            guard.probe()
        noise = guard.take()
        yield {"name": name, "noise": noise, "quiet": noise <= guard.bound, "runs": trained}


def _trained(*words: str) -> dict[str, float]:
    """Test accuracy and seconds of training."""
    with tempfile.TemporaryDirectory() as runs:
        output("-m", "dlcli", "train", *words, "--quiet", "--runs-dir", runs)
        report = json.loads(output("-m", "dlcli", "eval", "1", "--split", "test", "--json", "--runs-dir", runs))
        rows = list(csv.DictReader((Path(runs) / "1" / "metrics.csv").read_text().splitlines()))
    return {"accuracy": report["metrics"]["accuracy"], "seconds": sum(float(row["seconds"]) for row in rows)}


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        accuracies, times = ([run[what] for run in row["runs"]] for what in ("accuracy", "seconds"))
        spread = f" [{min(times):.1f}, {max(times):.1f}]" if row["quiet"] else ""
        accuracy = f"{statistics.mean(accuracies):.2%} [{min(accuracies):.2%}, {max(accuracies):.2%}]"
        seconds = cells(row, [(statistics.mean(times), ".1f")])[0] + spread
        lines.append([row["name"], str(len(times)), accuracy.replace("%", ""), seconds, f"{row['noise']:.2f}"])
    return markdown(["", "seeds", "test accuracy", "seconds", "noise"], lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
