"""Groups of runs, such as one setting over several seeds, compared by one metric: `dlcli runs compare`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dlcli.core.documents import NUMBER, TABLE, check
from dlcli.core.errors import DlcliError, RunError, did_you_mean
from dlcli.core.reading import read_json, told_as_damage
from dlcli.runs import metrics
from dlcli.runs.differences import NOT_OF_A_GROUP
from dlcli.runs.names import compact, find
from dlcli.runs.ranking import ground
from dlcli.runs.run import Run
from dlcli.runs.sample_tests import SampleTest, compare_samples
from dlcli.runs.statistics import Difference, Summary, holm, paired, summarise, unpaired


@dataclass(frozen=True)
class Result:
    """value: of the metric; None without one, and `reason` then says why."""

    run: Run
    seed: Any
    settings: dict[str, Any]
    value: float | None
    reason: str = ""


@dataclass(frozen=True)
class Group:
    """Runs that are taken together. name: what was typed, or the settings in which the groups differ."""

    name: str
    results: Sequence[Result]

    @property
    def values(self) -> list[float]:
        return [result.value for result in self.results if result.value is not None]

    @property
    def runs(self) -> str:
        return compact(result.run.number for result in self.results)

    @property
    def by_seed(self) -> dict[str, float] | None:
        """The value of each seed; None if a seed occurs twice."""
        found = {repr(result.seed): result.value for result in self.results if result.value is not None}
        return found if len(found) == len(self.results) else None


@dataclass(frozen=True)
class Compared:
    """A group, and how it differs from the first one; the first one has no difference.

    adjusted_p: p among all comparisons, after Holm. paired: whether runs with the same seed were compared.
    samples: if both groups are one run, these on the same samples; None if that cannot be told, and `no_samples` then
    says why.
    """

    group: Group
    summary: Summary
    difference: Difference | None = None
    paired: bool = False
    adjusted_p: float | None = None
    samples: SampleTest | None = None
    no_samples: str = ""

    def as_dict(self) -> dict[str, Any]:
        difference = None if self.difference is None else asdict(self.difference)
        if difference is not None:
            difference |= {"paired": self.paired, "adjusted_p": self.adjusted_p}
        return {
            "group": self.group.name,
            "runs": [result.run.number for result in self.group.results],
            "values": self.group.values,
            **asdict(self.summary),
            "difference": difference,
            "samples": None if self.samples is None else self.samples.as_dict(),
        }


@dataclass(frozen=True)
class Comparison:
    """metric: with its split, such as val/accuracy. left_out: results without a value."""

    metric: str
    rows: Sequence[Compared]
    left_out: Sequence[Result]


def compare(
    names: Sequence[str],
    root: str | Path,
    *,
    metric: str | None = None,
    by_config: bool = False,
    baseline: str | None = None,
    any_data: bool = False,
) -> Comparison:
    """Compare groups of finished runs with the first group.

    names: each names one group, as in `runs.names.find`. metric: `val/NAME` at the best checkpoint, or `test/NAME` as
    `dlcli eval` measured it; by default the one that determined the best checkpoint of the first run.
    by_config: all runs are one pool, grouped by their settings without the seed. baseline: names the first group.
    any_data: whether the runs may differ in their data or splits.
    RunError (exit 4) if there is nothing to compare, or the data differ.
    """
    texts = [*([baseline] if baseline else []), *(name for name in names if name != baseline)]
    found = {text: find(text, root) for text in texts}
    return compare_groups(found, metric=metric, by_config=by_config, first=baseline, any_data=any_data)


def compare_groups(
    found: Mapping[str, Sequence[Run]],
    *,
    metric: str | None = None,
    by_config: bool = False,
    first: str | None = None,
    any_data: bool = False,
    on_samples: bool = True,
) -> Comparison:
    """As `compare`, of runs that were found. first: the name of the group with which the others are compared, unless
    it is the first one. on_samples: whether single runs are compared on the samples that both answered, too."""
    metric = metric or _monitored(next(iter(found.values()))[0])
    results = {text: [_result(run, metric) for run in runs] for text, runs in found.items()}
    everything = list({one.run: one for group in results.values() for one in group}.values())
    left_out = [one for one in everything if one.value is None]
    there = [one for one in everything if one.value is not None]
    if not any_data:
        _refuse_other_data(there)
    groups = [Group(text, [one for one in group if one.value is not None]) for text, group in results.items()]
    if by_config:
        groups = group_by_config(there, first=results[first] if first else [])
    groups = [group for group in groups if group.results]
    if not groups:
        raise RunError(f"no run to compare has {metric}: " + "; ".join(f"{o.run} {o.reason}" for o in left_out[:5]))
    rows = [_compared(groups[0], group) for group in groups[1:]]
    adjusted = holm([row.difference.p if row.difference else None for row in rows])
    rows = [replace(row, adjusted_p=p) for row, p in zip(rows, adjusted, strict=True)]
    if on_samples:
        rows = _on_samples(groups[0], rows, metric)
    return Comparison(metric, [Compared(groups[0], summarise(groups[0].values)), *rows], left_out)


def _compared(first: Group, other: Group) -> Compared:
    ours, theirs = first.by_seed, other.by_seed
    if ours is not None and theirs is not None and ours.keys() == theirs.keys() and len(ours) > 1:
        return Compared(
            other, summarise(other.values), paired([*ours.values()], [theirs[seed] for seed in ours]), paired=True
        )
    return Compared(other, summarise(other.values), unpaired(first.values, other.values))


def _on_samples(first: Group, rows: Sequence[Compared], metric: str) -> list[Compared]:
    """With the answers to the samples, where a group of one run is compared with another."""
    split, _, name = metric.rpartition("/")
    found = []
    for row in rows:
        if len(first.results) == len(row.group.results) == 1:
            try:
                test = compare_samples(first.results[0].run, row.group.results[0].run, split, name)
                row = replace(row, samples=test)
            except RunError as error:
                row = replace(row, no_samples=str(error))
        found.append(row)
    adjusted = holm([row.samples.p if row.samples else None for row in found])
    return [
        replace(row, samples=replace(row.samples, adjusted_p=p)) if row.samples else row
        for row, p in zip(found, adjusted, strict=True)
    ]


def _monitored(run: Run) -> str:
    name = (run.info().get("best") or {}).get("metric")
    if name is None:
        raise RunError(f"{run} has no best checkpoint: name the metric with --metric test/NAME, after dlcli eval {run}")
    return name if "/" in name else f"val/{name}"


def _result(run: Run, metric: str) -> Result:
    try:
        info, settings = run.info(), run.settings()
        seed = settings.get("seed")
        if info["status"] != "finished":
            return Result(run, seed, settings, None, f"is {info['status']}, not finished")
        split, _, name = metric.rpartition("/")
        value = _measured(run, name) if split == "test" else _at_best(run, info, metric)
        return Result(run, seed, settings, value)
    except DlcliError as error:
        return Result(run, None, {}, None, f"cannot be used: {error}")


def _at_best(run: Run, info: dict[str, Any], metric: str) -> float:
    """The value of a column of metrics.csv at the best checkpoint, else in the last row that has one."""
    best = info.get("best") or {}
    if best.get("metric") == metric and best.get("value") is not None:
        return float(best["value"])
    at_best = last = None
    for steps, values in metrics.stream(run.metrics_file, ["step", metric]):
        for step, value in zip(steps, values, strict=True):
            if value is not None:
                last = value
                at_best = value if at_best is None and step == best.get("step") else at_best
    if last is None:
        columns = [name for name in metrics.columns(run.metrics_file) if "/" in name]
        raise RunError(f"it has no {metric}: {did_you_mean(metric, columns)}")
    return last if at_best is None else at_best


def _measured(run: Run, name: str) -> float:
    file = run.path / "eval" / "test.json"
    if not file.exists():
        raise RunError(f"it was not measured: dlcli eval {run}")
    document = read_json(file)
    with told_as_damage(file):
        check(document, {"metrics": TABLE}, needed=True)
    measured = document["metrics"]
    if name not in measured or not NUMBER.holds(measured[name]):
        raise RunError(f"its test.json has no {name}: {did_you_mean(name, measured)}")
    return float(measured[name])


def _refuse_other_data(results: Sequence[Result]) -> None:
    grounds: dict[tuple[str, ...], Result] = {}
    for result in results:
        grounds.setdefault(ground(result.run), result)
    if len(grounds) > 1:
        one, other = list(grounds.values())[:2]
        raise RunError(
            f"{one.run} and {other.run} have different data or splits, so their results cannot be compared: name runs "
            "on the same data, or add --any-data"
        )


def group_by_config(results: Sequence[Result], *, first: Sequence[Result]) -> list[Group]:
    """Groups of equal settings, in the order of their first runs; the one that holds `first` comes first."""
    known = {name for result in results for name in result.settings} - NOT_OF_A_GROUP
    names = sorted(known, key=lambda name: (name not in ("model", "data"), name))
    differing = [n for n in names if len({repr(result.settings.get(n)) for result in results}) > 1]
    pools: dict[str, list[Result]] = {}
    for result in results:
        values = [(name, result.settings.get(name)) for name in differing]
        there = [(name, value) for name, value in values if value is not None]  # the others are options of other models
        label = ", ".join(f"{name}={_shown(value)}" for name, value in there or values)
        pools.setdefault(label or "all", []).append(result)
    wanted = {result.run for result in first}
    groups = [Group(label, pool) for label, pool in pools.items()]
    return sorted(groups, key=lambda group: not any(result.run in wanted for result in group.results))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
