"""What the tables of runs are made of: the row of each run, with what was measured of it, and its config."""

import math
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from dlcli.core.documents import TEXT, check, list_of, optional
from dlcli.core.errors import RunError
from dlcli.core.reading import parse_json, read_json, read_start, told_as_damage
from dlcli.runs import index, table
from dlcli.runs.index import Entry
from dlcli.runs.run import Run

_GIVEN = {"given": optional(list_of(TEXT))}

# Bytes of test.json to read: the metrics come before the tables of classes, which are much longer.
_START = 4096
_MEASURED = re.compile(rb'\n  "step": ([0-9]{1,15}),\n(?:  .*\n)*?  "metrics": (\{[^{}]*\})')

# For a run without a validation split: the first of these that was measured.
_MAIN = ("accuracy", "r2", "bits_per_char", "loss")


def of(root: str | Path, numbers: list[int]) -> Iterator[Entry]:
    """The row of each of these runs and its config, see `differences.rows`; kept in the user's cache."""
    return index.through(root, numbers, partial(_entry, root))


def _entry(root: str | Path, number: int) -> Entry:
    """The row of a run and its config."""
    row = table.row(Run(Path(root), number))
    row["test"], config = None, {}
    if row["model"] is not None:
        folder = os.path.join(root, str(number))
        try:
            config = _config(f"{folder}/config.json")
            row["test"], measured = _test(f"{folder}/eval", row["metric"])
            row["metrics"] = row["metrics"] | {f"test/{name}": value for name, value in measured.items()}
        except RunError as error:
            row["reason"] = row["reason"] or str(error)
    return row, config


def measured(run: Run) -> tuple[dict[str, float], int]:
    """All that `dlcli eval` measured on the test split, and at which step; empty and 0 if it did not. RunError if
    test.json is damaged."""
    folder = os.path.join(run.path, "eval")
    start = _started(folder)
    if start is None:
        return {}, 0
    step, metrics = start
    finite = {k: v for k, v in metrics.items() if isinstance(v, int | float) and math.isfinite(v)}
    return {name: float(value) for name, value in finite.items()}, step


def _config(file: str) -> dict[str, Any]:
    """config.json unchecked, apart from its `given`: nothing is built from it."""
    config: dict[str, Any] = read_json(file)
    with told_as_damage(file):
        check(config, _GIVEN)
    return config


def _test(folder: str, best: str | None) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The main result, and all metrics."""
    start = _started(folder)
    if start is None:
        return None, {}
    step, metrics = start
    names = [best.removeprefix("val/")] if best is not None else _MAIN
    name = next((name for name in names if name in metrics), None)
    value = None if name is None else metrics.get(name)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None, metrics
    return {"metric": name, "value": value, "step": step}, metrics


def _started(folder: str) -> tuple[int, dict[str, Any]] | None:
    """Step and metrics of test.json; None if there is none."""
    with told_as_damage(file := f"{folder}/test.json"):
        start = read_start(folder, file, most=_START)
        if start is None:
            return None
        found = _MEASURED.search(start)
        if found is None:
            raise ValueError("it holds no metrics")
        return int(found[1]), parse_json(found[2])
