"""Which run is the best: only results on the same data, split in the same way, are compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.config.layers import flatten
from dlcli.core.errors import RunError
from dlcli.runs import entries
from dlcli.runs.index import Entry
from dlcli.runs.numbers import RUN_NUMBER
from dlcli.runs.run import Run, all_runs

# Settings that determine how the data is split, apart from the seed.
_SPLIT = ("val_fraction", "test_fraction")

# Data sets for language models, beside text:FILE.
_LANGUAGE = ("pydocs", "tinyshakespeare")

# The largest number of runs per data set that an error lists.
_MOST_NAMED = 5


@dataclass(frozen=True)
class Candidate:
    """A run that has a best evaluation.

    metric: without `val/`. score: higher is better. data: the name of the data set.
    ground: what must be equal for scores to be comparable (data set, fingerprint, split settings).
    """

    run: Run
    metric: str
    score: float
    data: str
    ground: tuple[str, ...]


def candidates(root: Path, *, among: Iterable[Entry] | None = None) -> list[Candidate]:
    """The runs of a folder, newest first, or among these, that have a best evaluation."""
    known = entries.of(root, [run.number for run in all_runs(root)]) if among is None else among
    return [found for row, config in known if (found := _candidate(root, row, config)) is not None]


def best(metric: str, root: Path, *, place: str = "", among: Iterable[Entry] | None = None) -> Run:
    """The run with the best validation value of this metric, among those that monitored it.

    Whether higher is better was recorded with the value. Only runs on the same data, split in the same way, are
    compared; the seed, which draws the validation split, may differ.
    place: selects a data set, by its name or by the number of a run on it. among: what is known of the runs that count.
    RunError (exit 4) if there is no such run, or if the runs differ in their data and `place` does not select one.
    """
    known = candidates(root, among=among)
    chosen = [found for found in known if found.metric == metric]
    if not chosen:
        watched = ", ".join(sorted({f"val/{found.metric}" for found in known}))
        raise RunError(
            f"no run in {root} has a best {metric}" + (f"; the runs here watched {watched}" if known else "")
        )
    if place:
        data = ", ".join(sorted({found.data for found in chosen}))
        wanted = ground(_run(place, root)) if RUN_NUMBER.fullmatch(place) else None
        chosen = [found for found in chosen if place == found.data or wanted == found.ground]
        if not chosen:
            raise RunError(f"no run in {root} has a best {metric} on {place}; those that have one are on {data}")
    if len({found.ground for found in chosen}) > 1:
        raise RunError(_mixed(metric, chosen))
    return max(chosen, key=lambda found: found.score).run  # the newest of equal ones


def _candidate(root: Path, row: dict[str, Any], config: dict[str, Any]) -> Candidate | None:
    """None also for a run whose settings are damaged."""
    name, value = row["metric"], row["best"]
    if not config or not isinstance(name, str) or not isinstance(value, int | float):
        return None
    score = float(value) if row["higher_is_better"] else -float(value)
    metric = name.removeprefix("val/")
    where = _ground(row["data"], row["fingerprint"], config, metric)
    return Candidate(Run(root, row["run"]), metric, score, where[0], where)


def _run(number: str, root: Path) -> Run:
    run = Run(root, int(number))
    if not run.path.is_dir():
        raise RunError(f"there is no run {number} in {root}: see `dlcli runs`")
    return run


def ground(run: Run) -> tuple[str, ...]:
    """The name of a run's data set, its fingerprint, the split settings, and of a language model what a token is."""
    info = run.info()
    metric = str((info.get("best") or {}).get("metric")).removeprefix("val/")
    return _ground(info.get("data"), info.get("fingerprint"), run.settings(), metric)


def _ground(data: Any, fingerprint: Any, settings: Mapping[str, Any], metric: str) -> tuple[str, ...]:
    return str(data), *map(repr, (fingerprint, *map(settings.get, _SPLIT), *_tokens(str(data), settings, metric)))


def _tokens(data: str, settings: Mapping[str, Any], metric: str) -> tuple[Any, ...]:
    """What the loss of a language model is a loss of; nothing for its bits per character, and for other data."""
    if metric == "bits_per_char" or not (data in _LANGUAGE or data.startswith("text:")):
        return ()
    flat = flatten(settings)
    return flat.get("data.tokens") or "characters", flat.get("data.vocabulary") or 0


def _mixed(metric: str, found: Iterable[Candidate]) -> str:
    groups: dict[tuple[str, ...], list[Candidate]] = {}
    for one in sorted(found, key=lambda one: one.run.number):
        groups.setdefault(one.ground, []).append(one)
    first = [group[0] for group in groups.values()]
    named = len({one.data for one in first}) == len(first)
    what, example = ("data", first[0].data) if named else ("data or splits", first[0].run.number)
    listed = ", ".join(_group(group) for group in groups.values())
    return f"best:{metric} finds runs whose {what} differ: {listed}; choose with best:{metric}@{example}"


def _group(group: list[Candidate]) -> str:
    numbers = ", ".join(str(one.run.number) for one in group[:_MOST_NAMED])
    more = ", ..." if len(group) > _MOST_NAMED else ""
    return f"{group[0].data} (run{'s' * (len(group) > 1)} {numbers}{more})"
