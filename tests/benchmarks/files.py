"""Large CSV files: until the training can begin, against pandas, which only reads them."""

import json
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.process import output
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Large tables"
ROUNDS = 3
ABOUT = """
Seconds and peak resident memory of a process that reads a CSV file of so many bytes, whose rows are 16 numbers, 3 of
them whole, a category and a target. dlcli also finds out the types, divides the rows, and encodes them as float32 in
memory, as for a training. pandas reads with its engine pyarrow and does no more. *Numbers*: the encoded features, 4
bytes each. The memory of Python with torch, or with pandas and pyarrow, is not counted.
"""

_SIZES = {"107 MB": 107_000_000, "1 GB": 1_000_000_000}
_ROW = 132  # bytes, about

# Of this process alone: ru_maxrss begins with that of its parent.
_PEAK = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
"""

# The seconds, the peak above that of the imports in MB, and MB of the numbers.
_END = """
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak_mb": peak() - before, "numbers_mb": numbers / 1e6}))
"""
_OURS = (
    _PEAK
    + """
import json, os, sys, time
os.environ["GOMP_SPINCOUNT"] = "5000"  # as the command line does
from pathlib import Path
import numpy, pyarrow.csv, torch
from dlcli.data.prepare import prepare
from dlcli.data.tables.table import table
before = peak()
start = time.perf_counter()
opened = table(Path("."), path=sys.argv[1], target="y", storage="memory")
data = prepare(opened, val_fraction=None, test_fraction=None, normalize=True, seed=0)
numbers = opened.rows * data.spec.input_shape[0] * 4
"""
    + _END
)
_THEIRS = (
    _PEAK
    + """
import json, sys, time
import pandas, pyarrow.csv
before = peak()
start = time.perf_counter()
frame = pandas.read_csv(sys.argv[1], engine="pyarrow")
numbers = 4 * frame.size
"""
    + _END
)


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    for name, size in _SIZES.items():
        if only in name:
            with tempfile.TemporaryDirectory() as scratch:
                file = _written(Path(scratch) / "rows.csv", rows=size // _ROW)
                jobs = {loop: partial(_figures, code, file) for loop, code in (("dlcli", _OURS), ("pandas", _THEIRS))}
                found = compare(jobs, rounds=rounds, guard=guard)
                ratio = found.ratio("dlcli seconds", "pandas seconds")
                yield {"name": name, "bytes": file.stat().st_size, "ratio": ratio, **found.as_dict()}


def _figures(code: str, file: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(output("-c", code, str(file)))
    return found


def _written(file: Path, rows: int) -> Path:
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    rng = np.random.default_rng(0)
    columns = {f"x{k}": pa.array(np.round(rng.normal(size=rows), 5)) for k in range(13)}
    columns |= {f"n{k}": pa.array(rng.integers(0, 100_000, rows)) for k in range(3)}
    columns["city"] = pa.array(np.array([f"city-{k}" for k in range(50)])[rng.integers(0, 50, rows)])
    columns["y"] = pa.array(np.round(rng.normal(size=rows), 4))
    csv.write_csv(pa.table(columns), str(file))
    return file


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        median = row["median"]
        seconds = [(median[f"{loop} seconds"], ".2f") for loop in ("dlcli", "pandas")]
        memory = [(median[f"{loop} peak_mb"], ",.0f") for loop in ("dlcli", "pandas")]
        numbers = median["dlcli numbers_mb"]
        more = [(row["ratio"], ".2f"), *memory, (numbers, ",.0f"), (median["dlcli peak_mb"] / numbers, ".1f")]
        lines.append([row["name"], *cells(row, [*seconds, *more]), f"{row['noise']:.2f}"])
    header = ["", "dlcli s", "pandas s", "dlcli / pandas", "dlcli MB", "pandas MB", "numbers MB", "dlcli / numbers"]
    header += ["noise"]
    return markdown(header, lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
