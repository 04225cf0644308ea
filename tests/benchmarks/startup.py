"""Seconds until a command has answered, and until a training has done its first step."""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.process import output
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Start-up"
ROUNDS = 5
ABOUT = """
Seconds of whole processes, against what cannot be avoided. The first step: from the start of `dlcli train mlp` (on
`digits`) to the end of its first optimizer step, against a process that imports torch and constructs one
`torch.optim.SGD`; dlcli may take 0.3 s more. dlcli constructs none, since that imports torch._dynamo.
"""

# What a training on `digits` must not import.
UNWANTED = ("torchvision", "sklearn", "pandas", "torch._dynamo", "PIL", "rich.progress")

_IMPORTS = "import typer, rich"
_OPTIMIZER = "import torch; torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)"

# `Stop.reason` is asked after each step: the first time, the process says what it has imported, and ends.
_FIRST_STEP = f"""
import json, os, sys, time
from dlcli.training import signals
def reason(self):
    now = time.perf_counter()
    print(json.dumps([now, [name for name in {UNWANTED} if name in sys.modules]]), flush=True)
    os._exit(0)
signals.Stop.reason = reason
from dlcli.cli.main import main
main()
"""


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as runs:
        commands = {
            "dlcli --help": (partial(_process, "-m", "dlcli", "--help"), _IMPORTS),
            "dlcli runs": (partial(_process, "-m", "dlcli", "runs", "--runs-dir", runs), _IMPORTS),
            "first step of dlcli train": (partial(first_step, runs), _OPTIMIZER),
        }
        for name, (job, floor) in commands.items():
            if only in name:
                jobs: dict[str, Callable[[], float]] = {"it": job, "floor": partial(_process, "-c", floor)}
                found = compare(jobs, rounds=rounds, guard=guard)
                more = found.median("it") - found.median("floor") if found.quiet else None
                yield {"name": name, "floor": floor, "ratio": found.ratio("it", "floor"), "more": more,
                       **found.as_dict()}  # fmt: skip


def first_step(runs: str) -> float:
    """Seconds to the first step; RuntimeError when something was imported that is not needed."""
    words = ["train", "mlp", "--data", "digits", "--quiet", "--runs-dir", runs]
    start = time.perf_counter()
    now, imported = json.loads(output("-c", _FIRST_STEP, *words))
    if imported:
        raise RuntimeError(f"dlcli train on digits imports {', '.join(imported)}")
    return float(now) - start


def _process(*words: str) -> float:
    start = time.perf_counter()
    output(*words)
    return time.perf_counter() - start


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        values = [(row["median"]["it"], ".3f"), (row["median"]["floor"], ".3f"), (row["ratio"], ".2f")]
        line = cells(row, [*values, (row["more"], "+.2f")])
        lines.append([f"{row['name']}, against `{row['floor']}`", *line, f"{row['noise']:.2f}"])
    return markdown(["process", "seconds", "of that", "ratio", "difference", "noise"], lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
