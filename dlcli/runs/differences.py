"""How the runs of a table differ: the settings that were chosen, and what `dlcli eval` measured."""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from dlcli.config.layers import flatten
from dlcli.config.settings import TrainConfig
from dlcli.core.documents import TEXT, check, list_of, optional
from dlcli.core.errors import ConfigError, RunError
from dlcli.core.reading import parse_json, read_json, read_start, told_as_damage
from dlcli.runs import index, table, where
from dlcli.runs.names import compact
from dlcli.runs.run import Run, all_runs
from dlcli.runs.statistics import summarise
from dlcli.runs.where import Condition

_MOST = 12  # settings shown

_GIVEN = {"given": optional(list_of(TEXT))}

# Keys of config.json that are not settings, or do not change the result.
_ASIDE = {"format", "given", "data_dir", "log", "log_weights", "log_every", "checkpoint_every", "keep_last"}

# Those that no column is for, or that have one of their own.
_SHOWN = {*table.COLUMNS, *_ASIDE}

_ORDER = {f.name: place for place, f in enumerate(fields(TrainConfig))}

# Settings that do not make another group.
NOT_OF_A_GROUP = {*_ASIDE, "seed", "threads"}

# Bytes of test.json to read: the metrics come before the tables of classes, which are much longer.
_START = 4096
_MEASURED = re.compile(rb'\n  "step": ([0-9]{1,15}),\n(?:  .*\n)*?  "metrics": (\{[^{}]*\})')

# For a run without a validation split: the first of these that was measured.
_MAIN = ("accuracy", "r2", "bits_per_char", "loss")


def rows(
    root: str | Path,
    *,
    limit: int = 0,
    last: int = 0,
    conditions: Sequence[Condition] = (),
    sort: str = "",
    extra: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of runs/table.py, and the names of the settings in which they differ, most often chosen first.

    limit: the most rows, unless 0, after conditions and order have been applied. last: how many of the newest runs are
    looked at, unless 0. sort: `NAME` or `NAME:desc`.
    extra: names of further settings or metrics that each row is to have. ConfigError (exit 2) for an unknown name.
    Each row has three more keys. settings: the value of each of these settings; None if the run does not have it.
    extra: the value of each of the further names. test: what `dlcli eval` last measured on the test split, {"metric",
    "value", "step"}, for the metric that determined the best checkpoint; None if it was not measured. `metrics` has all
    that it measured, as test/NAME. If the file of either is damaged, `reason` of the row says so.
    """
    found, configs = _listed(root, limit=limit, last=last, conditions=conditions, sort=sort, extra=extra)
    return _with_settings(found, configs)


def rows_of(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """As `rows`, of these runs in this order. One that was removed has a row without a status."""
    return _with_settings(*_of(runs))


def _with_settings(
    found: list[dict[str, Any]], configs: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    names = _differing(configs)
    for row, config in zip(found, configs, strict=True):
        row["settings"] = {name: _value(config, name) for name in names}
    return found, names


def _of(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The row and the config of each."""
    entries: dict[Run, index.Entry] = {}
    for root in dict.fromkeys(run.root for run in runs):
        there = [run for run in runs if run.root == root]
        entries |= zip(there, index.through(root, [run.number for run in there], partial(_entry, root)), strict=True)
    for run, (row, _) in entries.items():
        if row["model"] is None and not run.path.exists():
            row["status"], row["reason"] = None, "was removed meanwhile"
    return [entries[run][0] for run in runs], [entries[run][1] for run in runs]


def rows_with_settings(root: str | Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row of `rows` without the keys that depend on the others, and the flat settings of the run as stored; newest
    first. A run whose settings are damaged has none."""
    found, configs = _listed(root)
    return [(row, flatten(config)) for row, config in zip(found, configs, strict=True)]


def groups(
    root: str | Path, *, last: int = 0, conditions: Sequence[Condition] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """Finished runs with equal settings apart from the seed, put together: one row a group, that of the newest run
    first, and the names of the settings in which the groups differ. Arguments and errors are those of `rows`.

    A row: runs (4,7,40:45), model, data, metric, settings, and of the best values: count, mean, median, std, interval.
    """
    return _grouped(*_listed(root, last=last, conditions=conditions))


def groups_of(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """As `groups`, of these runs."""
    return _grouped(*_of(runs))


def _grouped(
    found: Sequence[dict[str, Any]], configs: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    pools: dict[str, list[int]] = {}
    for place, (row, config) in enumerate(zip(found, configs, strict=True)):
        if row["status"] == "finished" and isinstance(row["best"], int | float):
            same = {name: value for name, value in flatten(config).items() if name not in NOT_OF_A_GROUP}
            pools.setdefault(repr((row["metric"], sorted(same.items()))), []).append(place)
    flat = [flatten(configs[places[0]]) for places in pools.values()]
    everything = sorted({name for config in flat for name in config} - NOT_OF_A_GROUP - _SHOWN)
    names = [name for name in everything if len({repr(config.get(name)) for config in flat}) > 1][:_MOST]
    rows = []
    for places in pools.values():
        row, config = found[places[0]], configs[places[0]]
        rows.append({
            "runs": compact(found[place]["run"] for place in places),
            **{name: row[name] for name in ("model", "data", "metric")},
            "settings": {name: _value(config, name) for name in names},
            **asdict(summarise([found[place]["best"] for place in places])),
        })  # fmt: skip
    return rows, names


def _listed(
    root: str | Path,
    *,
    limit: int = 0,
    last: int = 0,
    conditions: Sequence[Condition] = (),
    sort: str = "",
    extra: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows and their configs, see `rows`."""
    selecting = bool(conditions or sort or extra)
    numbers = [run.number for run in all_runs(root)]
    most = last if selecting or 0 < last < limit or not limit else limit
    entries = list(index.through(root, numbers[: most or None], partial(_entry, root)))
    there = [
        (row, config)
        for row, config in entries
        if row["model"] is not None or Run(Path(root), row["run"]).path.exists()
    ]
    found, configs = [row for row, _ in there], [config for _, config in there]
    if selecting:
        name, highest_first = _order(sort)
        names = [*(condition.name for condition in conditions), *([name] if name else []), *extra]
        where.check_names(names, there)
        everything = [where.values(row, config, names) for row, config in there]
        fitting = [k for k, run in enumerate(everything) if all(condition.holds(run) for condition in conditions)]
        if name:
            order = where.order(name, [everything[place] for place in fitting], highest_first=highest_first)
            fitting = [fitting[k] for k in order]
        places = fitting[: limit or None]
        found, configs = [found[place] for place in places], [configs[place] for place in places]
        for row, place in zip(found, places, strict=True):
            row["extra"] = {name: everything[place].get(name) for name in extra}
    return found, configs


def _entry(root: str | Path, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
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


def _order(sort: str) -> tuple[str, bool]:
    """The name to sort by, or none, and whether the highest comes first."""
    name, _, direction = sort.partition(":")
    if direction not in ("", "asc", "desc"):
        raise ConfigError(f"--sort {sort} is not of the form NAME, NAME:asc or NAME:desc")
    return name, direction == "desc"


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
