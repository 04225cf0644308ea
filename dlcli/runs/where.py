"""Conditions on runs, `lr < 0.1 and val/accuracy > 0.98 and model = cnn`, and their order."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from dlcli.config.layers import flatten
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError, did_you_mean
from dlcli.runs.cleanup import AGE, UNITS
from dlcli.runs.table import COLUMNS

# What a run of the table has, beside its settings and metrics.
_COLUMNS = {*COLUMNS, "age", "tag"}
_SETTINGS = {field.name for field in fields(TrainConfig)}
_NOTHING: Any = object()

_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=|!=|=|<|>)\s*(.*\S)\s*")
_ORDERED: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_WORDS: dict[str, Any] = {"yes": True, "true": True, "no": False, "false": False, "none": None, "-": None}


@dataclass(frozen=True)
class Condition:
    """text: as typed, for errors. sign: < <= > >= = or !=. value: a number, a text, yes, no or none."""

    text: str
    name: str
    sign: str
    value: Any

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether a run with these values fits; one without the value fits only `!=` and `= none`.

        ConfigError (exit 2) if < or > would compare a text.
        """
        found = values.get(self.name)
        if self.name == "tag":  # a run has any number of them
            if self.sign not in ("=", "!="):
                raise ConfigError(f"--where {self.text!r}: a run has a tag or not, so use = or !=")
            return (_shown(self.value) in values["tags"]) == (self.sign == "=")
        if self.sign in ("=", "!="):
            return _equal(found, self.value) == (self.sign == "=")
        if found is None:
            return False
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise ConfigError(
                f"--where {self.text!r} compares {self.name} = {_shown(found)} with a number: use = or !="
            )
        return _ORDERED[self.sign](found, self.value)


def parse(texts: Sequence[str]) -> list[Condition]:
    """Conditions joined by `and`; all texts count. ConfigError (exit 2) for anything else."""
    return [_parsed(part) for text in texts for part in re.split(r"\s+and\s+", text.strip(), flags=re.I)]


def _parsed(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConfigError(f"--where {text!r} is not a condition such as 'lr < 0.1' or 'model = cnn and seed != 3'")
    name, sign, typed = match.groups()
    value = _value(name, typed)
    if sign in _ORDERED and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ConfigError(f"--where {text!r} needs a number after {sign}")
    return Condition(text, name, sign, value)


def _value(name: str, typed: str) -> Any:
    if len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "'\"":
        return typed[1:-1]
    if typed.casefold() in _WORDS:
        return _WORDS[typed.casefold()]
    if name in ("age", "seconds") and (age := AGE.fullmatch(typed)):
        return float(age[1]) * UNITS[age[2]]
    try:
        return float(typed)
    except ValueError:
        return typed


def values(row: Mapping[str, Any], config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What a run has of these names: a column of the table, age in seconds, else a metric, else a setting; and always
    its tags. Only what is asked for is looked up, since there may be ten thousand runs."""
    found: dict[str, Any] = {"tags": row["tags"]}
    for name in names:
        if name == "age":
            started = row["started"]
            found[name] = started and (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds()
        elif name == "tag":
            found[name] = row["tags"]
        elif name in COLUMNS and row[name] is not None:
            found[name] = row[name]
        elif name in row["metrics"]:
            found[name] = row["metrics"][name]
        elif (setting := _setting(config, name)) is not _NOTHING:
            found[name] = setting
    return found


def _setting(config: Mapping[str, Any], name: str) -> Any:
    """`flatten(config)[name]`, or _NOTHING. config: of config.json, in which a model with options is a table."""
    owner, dot, option = name.partition(".")
    table = config.get(owner)
    if isinstance(table, dict) and option != "name":
        inner = table.get(option if dot else "name", _NOTHING)
        if inner is not _NOTHING:
            return inner
    found = config.get(name, _NOTHING)
    return _NOTHING if isinstance(found, dict) or name in ("format", "given") else found


def check_names(names: Iterable[str], runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """ConfigError (exit 2), with the nearest name, for a name that is no setting and that none of the runs has. runs:
    the row and the config of each."""
    for name in names:
        if name in _COLUMNS or name in _SETTINGS:
            continue
        if not any(name in row["metrics"] or _setting(config, name) is not _NOTHING for row, config in runs):
            known = {key for row, config in runs for key in (*row["metrics"], *flatten(config))}
            known = known - {"format", "given"} | _COLUMNS | _SETTINGS
            raise ConfigError(f"no run has {name}: {did_you_mean(name, sorted(known))}")


def order(name: str, runs: Sequence[Mapping[str, Any]], *, highest_first: bool) -> list[int]:
    """The places of the runs sorted by this value: numbers, then texts; those that have none are last."""

    def rank(place: int) -> tuple[bool, float, str]:
        value = runs[place].get(name)
        number = float(value) if isinstance(value, int | float) else 0.0
        return isinstance(value, str | list), -number if highest_first else number, _shown(value)

    there = [place for place, run in enumerate(runs) if run.get(name) is not None]
    return sorted(there, key=rank) + [place for place, run in enumerate(runs) if run.get(name) is None]


def _equal(found: Any, value: Any) -> bool:
    if isinstance(found, bool) or isinstance(value, bool) or found is None or value is None:
        return found is value
    if isinstance(found, int | float):
        return bool(found == value)
    return _shown(found) == _shown(value)


def _shown(value: Any) -> str:
    """As a shell writes it: 128,64."""
    if isinstance(value, list):
        return ",".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
