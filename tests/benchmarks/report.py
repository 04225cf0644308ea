"""Runs a part of the benchmark, prints its table, and keeps docs/benchmarks.json and docs/benchmarks.md.

A part is a module with TITLE, ABOUT, ROUNDS, `measure(only, rounds, guard)`, which yields rows, and `table(rows)`.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.benchmarks.noise import BOUND, Guard

PARTS = (
    "throughput", "growth", "processes", "startup", "memory", "images", "busy", "cost", "accuracy", "tables", "files",
    "texts", "sweeps", "ranks", "trainers", "zoo", "cuda",
)  # fmt: skip
DOCS = Path(__file__).parent.parent.parent / "docs"

_INTRO = f"""# Benchmarks

Written by `make bench`, `make bench-peers` and `make bench-cuda`; do not edit. The figures behind it, round by round,
are in [benchmarks.json](benchmarks.json); what was tried to get there is in [performance-log.md](performance-log.md).

    make bench                                                    # everything but the two below
    make bench-setup bench-peers                                  # other trainers, in an environment of their own
    make bench-cuda                                               # on a machine with a GPU
    python -m tests.benchmarks.throughput --only cnn --rounds 5   # one part, one kind of row
    python -m tests.benchmarks.throughput --save                  # ... and write it into this page

Fashion-MNIST is read from `DLCLI_DATA_DIR`; where it is not there, random images of its shape are used.

**How it is measured.** What is compared takes turns, round after round, each in a process of its own; rates and times
are medians, a ratio is the median of the rounds' ratios. Between all measurements a fixed matrix product is timed on
all cores. *Noise* is how much longer its slowest quarter took, at least, than the fast tenth of the whole benchmark. A
round whose noise is above {BOUND} does not count and is repeated; where too few rounds were quiet, the row says `noisy`
and no number.
"""


def run(part: ModuleType) -> None:
    """The command line of a part."""
    parser = argparse.ArgumentParser(description=part.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=part.ROUNDS)
    parser.add_argument("--bound", type=float, default=BOUND, help="largest noise that counts as quiet")
    parser.add_argument("--json", default="", help="write the figures to this file")
    parser.add_argument("--save", action="store_true", help="write them into docs/")
    given = parser.parse_args()
    result = measured(part, given.only, given.rounds, Guard(bound=given.bound))
    print(part.table(result["rows"]))
    if given.json:
        Path(given.json).write_text(json.dumps(result, indent=1) + "\n")
    if given.save:
        save(part.__spec__.name.rpartition(".")[2], result)  # type: ignore[union-attr]


def measured(part: ModuleType, only: str, rounds: int, guard: Guard) -> dict[str, Any]:
    started = time.perf_counter()
    rows = []
    for row in part.measure(only, rounds, guard):
        rows.append(row)
        print(f"{time.perf_counter() - started:6.0f} s  {row['name']}: noise {row['noise']:.2f}", file=sys.stderr)
    return {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "rows": rows}


def save(part: str, result: dict[str, Any], docs: Path = DOCS) -> None:
    """In place of what this part gave on this machine before; what it gave on others stays."""
    file = docs / "benchmarks.json"
    document = json.loads(file.read_text()) if file.exists() else {}
    others = [other for other in document.get(part, []) if other["machine"] != result["machine"]]
    document[part] = [result, *others]
    ordered = {name: document[name] for name in PARTS if name in document}
    file.write_text(json.dumps(ordered, indent=1) + "\n")
    (docs / "benchmarks.md").write_text(page(ordered))


def page(document: dict[str, Any]) -> str:
    """A section a part that was measured, with a table a machine."""
    sections = [_INTRO]
    for name, results in document.items():
        part = import_module(f"tests.benchmarks.{name}")
        sections.append(f"## {part.TITLE}\n\n{part.ABOUT.strip()}\n")
        sections += [f"{a['machine']}; {a['date']}.\n\n{part.table(a['rows'])}" for a in results]
    return "\n".join(sections)


def machine() -> str:
    """What a figure depends on; neither the machine's name nor a path of it."""
    import torch

    from dlcli.compute.processor import processor
    from dlcli.compute.threads import usable_cores

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{processor()}, {usable_cores()} cores, {memory:.0f} GiB{device}; {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "".join("| " + " | ".join(line) + " |\n" for line in (header, rule, *rows))


def cells(row: dict[str, Any], values: Sequence[tuple[float | None, str]]) -> list[str]:
    """Each value in its format, such as (1.5, ".2f"); `noisy` where the row is; nothing where there is none."""
    if not row["quiet"]:
        return ["noisy"] * len(values)
    return ["" if value is None else format(value, shape) for value, shape in values]
