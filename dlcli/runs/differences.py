"""How the runs of a table differ: the settings that were chosen, and what `dlcli eval` measured."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from dlcli.config.layers import flatten
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError
from dlcli.runs import entries, table, where
from dlcli.runs.index import Entry
from dlcli.runs.names import compact
from dlcli.runs.run import Run, all_runs
from dlcli.runs.statistics import summarise
from dlcli.runs.where import Condition

_MOST = 12  # settings shown

# Keys of config.json that are not settings, or do not change the result.
_ASIDE = {"format", "given", "data_dir", "log", "log_weights", "log_every", "checkpoint_every", "keep_last"}

# Those that no column is for, or that have one of their own.
_SHOWN = {*table.COLUMNS, *_ASIDE}

_ORDER = {f.name: place for place, f in enumerate(fields(TrainConfig))}

# Settings that do not make another group.
NOT_OF_A_GROUP = {*_ASIDE, "seed", "threads"}


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
    found, configs = listed(root, limit=limit, last=last, conditions=conditions, sort=sort, extra=extra)
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
    known: dict[Run, Entry] = {}
    for root in dict.fromkeys(run.root for run in runs):
        there = [run for run in runs if run.root == root]
        known |= zip(there, entries.of(root, [run.number for run in there]), strict=True)
    for run, (row, _) in known.items():
        if row["model"] is None and not run.path.exists():
            row["status"], row["reason"] = None, "was removed meanwhile"
    return [known[run][0] for run in runs], [known[run][1] for run in runs]


def rows_with_settings(root: str | Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each row of `rows` without the keys that depend on the others, and the flat settings of the run as stored; newest
    first. A run whose settings are damaged has none."""
    found, configs = listed(root)
    return [(row, flatten(config)) for row, config in zip(found, configs, strict=True)]


def groups(
    root: str | Path, *, last: int = 0, conditions: Sequence[Condition] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """Finished runs with equal settings apart from the seed, put together: one row a group, that of the newest run
    first, and the names of the settings in which the groups differ. Arguments and errors are those of `rows`.

    A row: runs (4,7,40:45), model, data, metric, settings, and of the best values: count, mean, median, std, interval.
    """
    return _grouped(*listed(root, last=last, conditions=conditions))


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


def listed(
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
    there = [
        (row, config)
        for row, config in entries.of(root, numbers[: most or None])
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


def _order(sort: str) -> tuple[str, bool]:
    """The name to sort by, or none, and whether the highest comes first."""
    name, _, direction = sort.partition(":")
    if direction not in ("", "asc", "desc"):
        raise ConfigError(f"--sort {sort} is not of the form NAME, NAME:asc or NAME:desc")
    return name, direction == "desc"


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
