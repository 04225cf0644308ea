"""How the runs of a table differ: the settings that were chosen, and what `dlcli eval` measured."""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dlcli.config.layers import flatten
from dlcli.config.settings import TrainConfig
from dlcli.core.documents import TEXT, check, list_of, optional
from dlcli.core.errors import RunError
from dlcli.core.reading import parse_json, read_json, read_start, told_as_damage
from dlcli.runs import table

_MOST = 12  # settings shown

_GIVEN = {"given": optional(list_of(TEXT))}

# Keys of config.json that are not settings, have a column of their own, or do not change the result.
_SHOWN = {*table.COLUMNS, "format", "given", "data_dir", "log_every", "checkpoint_every", "keep_last"}

_ORDER = {f.name: place for place, f in enumerate(fields(TrainConfig))}

# Bytes of test.json to read: the metrics come before the tables of classes, which are much longer.
_START = 4096
_MEASURED = re.compile(rb'\n  "step": ([0-9]{1,15}),\n(?:  .*\n)*?  "metrics": (\{[^{}]*\})')

# For a run without a validation split: the first of these that was measured.
_MAIN = ("accuracy", "r2", "bits_per_char", "loss")


def rows(root: str | Path, *, limit: int = 0) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of runs/table.py, and the names of the settings in which they differ, most often chosen first.

    Each row has two more keys. settings: the value of each of these settings; None if the run does not have it.
    test: what `dlcli eval` last measured on the test split, {"metric", "value", "step"}, for the metric that determined
    the best checkpoint; None if it was not measured. If the file of either is damaged, `reason` of the row says so.
    """
    found = table.rows(root, limit=limit)
    configs: list[dict[str, Any]] = []
    for row in found:
        folder = os.path.join(root, str(row["run"]))
        row["test"], config = None, {}
        if row["model"] is not None:
            try:
                config = _config(f"{folder}/config.json")
                row["test"] = _test(f"{folder}/eval", row["metric"])
            except RunError as error:
                row["reason"] = row["reason"] or str(error)
        configs.append(config)
    names = _differing(configs)
    for row, config in zip(found, configs, strict=True):
        row["settings"] = {name: _value(config, name) for name in names}
    return found, names


def _config(file: str) -> dict[str, Any]:
    """config.json unchecked, apart from its `given`: nothing is built from it."""
    config: dict[str, Any] = read_json(file)
    with told_as_damage(file):
        check(config, _GIVEN)
    return config


def _value(config: dict[str, Any], name: str) -> Any:
    """The value of a setting such as `lr` or `model.hidden`; None if it is absent or a table."""
    owner, dot, option = name.partition(".")
    value = config.get(owner)
    if dot:
        value = value.get(option) if isinstance(value, dict) else None
    return None if isinstance(value, dict) else value


def _differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the settings that differ. A config of dlcli 0.1.0 does not record which were given: all count."""
    counts: Counter[str] = Counter()
    for config in configs:
        counts.update(list(flatten(config)) if (given := config.get("given")) is None else given)
    known = [config for config in configs if config]
    names = [n for n in counts if n not in _SHOWN and len({repr(_value(config, n)) for config in known}) > 1]
    return sorted(names, key=lambda name: (-counts[name], _ORDER.get(name, len(_ORDER)), name))[:_MOST]


def _test(folder: str, best: str | None) -> dict[str, Any] | None:
    with told_as_damage(file := f"{folder}/test.json"):
        start = read_start(folder, file, most=_START)
        if start is None:
            return None
        found = _MEASURED.search(start)
        if found is None:
            raise ValueError("it holds no metrics")
        metrics = parse_json(found[2])
    names = [best.removeprefix("val/")] if best is not None else _MAIN
    name = next((name for name in names if name in metrics), None)
    value = metrics.get(name)
    if name is None or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return {"metric": name, "value": value, "step": int(found[1])}
