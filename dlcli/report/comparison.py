"""Groups of runs with equal settings apart from the seed: means, intervals and differences."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from dlcli.core.errors import DlcliError, RunError
from dlcli.core.wording import number
from dlcli.report.blocks import Block, Cell, Section, Table, Text, chosen
from dlcli.runs.compare import Compared, Comparison, compare_groups
from dlcli.runs.differences import groups_of
from dlcli.runs.ranking import ground
from dlcli.runs.run import Run

MOST = 200  # runs that are compared by tests; of more, the groups are only summarised
_MOST_PAIRS = 10  # comparisons sample by sample, each of which resamples

_HOW = (
    "Differences are those to the first row. Runs with the same seeds are compared in pairs, by the exact sign-flip "
    "test, others by Welch's t-test; there is no p where a group has fewer than 3 runs. Of several p in a table each "
    "is adjusted (Holm)."
)


def comparison(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> Section:
    """Finished runs on the same data with the same metric are compared, by that metric and by what `dlcli eval`
    measured of it. Nothing if there are no two such runs."""
    finished = [(run, row) for run, row in zip(runs, rows, strict=True) if row["status"] == "finished"]
    if len(finished) > MOST:
        return Section("Comparison", _grouped([run for run, _ in finished]))
    pools: dict[tuple[str, ...], list[tuple[Run, dict[str, Any]]]] = defaultdict(list)
    for run, row in finished:
        if row["metric"] is not None:
            try:
                pools[*ground(run), str(row["metric"])].append((run, row))
            except RunError:
                continue  # damaged since its row was read
    blocks: list[Block] = []
    for pool in pools.values():
        if len(pool) > 1:
            members, metric, data = [run for run, _ in pool], str(pool[0][1]["metric"]), str(pool[0][1]["data"])
            blocks += _compared(members, metric if "/" in metric else f"val/{metric}", data)
            name = metric.rpartition("/")[2]
            measured = [run for run, row in pool if row["test"] is not None and row["test"]["metric"] == name]
            if len(measured) > 1:
                blocks += _compared(measured, f"test/{name}", data)
    tested = any(isinstance(block, Table) and len(block.rows) > 1 for block in blocks)
    return Section("Comparison", [*blocks, *([Text(_HOW)] if tested else [])])


def _compared(runs: Sequence[Run], metric: str, data: str) -> list[Block]:
    try:
        found = compare_groups({"all": runs}, metric=metric, by_config=True, on_samples=len(runs) <= _MOST_PAIRS)
    except DlcliError as error:
        return [Text(f"{metric} is not compared: {error}")]
    rows = [_row(compared) for compared in found.rows]
    header = ["settings", "runs", "n", "mean", "standard deviation", "95 % interval", "difference", "its interval", "p"]
    return [Table(f"{metric} on {data}", header, rows), *map(Text, _remarks(found, metric))]


def _row(one: Compared) -> list[Any]:
    difference = one.difference
    return [
        "all settings are equal" if one.group.name == "all" else one.group.name,
        one.group.runs,
        one.summary.count,
        one.summary.mean,
        one.summary.std,
        _interval(one.summary.interval),
        None if difference is None else Cell(_signed(difference.mean), difference.mean),
        None if difference is None else _interval(difference.interval),
        None if one.adjusted_p is None else Cell(f"{one.adjusted_p:.3g}", one.adjusted_p),
    ]


def _remarks(found: Comparison, metric: str) -> list[str]:
    told = []
    least = max((row.difference.least_p or 0 for row in found.rows if row.paired and row.difference), default=0)
    if least > 0.05:
        told.append(f"With so few seeds p of {metric} cannot be below {least:g}: more seeds tell small differences.")
    for row in found.rows:
        if row.samples is not None:
            test, (low, high) = row.samples, row.samples.interval
            line = (
                f"{test.second} against {test.first} on the same {test.samples:,} {test.split} samples: {test.metric} "
                f"{_signed(test.difference)} ({_signed(low)} to {_signed(high)}, bootstrap)"
            )
            if test.adjusted_p is not None:
                line += f"; p {test.adjusted_p:.3g} (McNemar's exact test)"
            told.append(f"{line}. This compares these trained models, not their settings.")
    return told + [f"{one.run} is not compared: it {one.reason}." for one in found.left_out]


def _grouped(runs: Sequence[Run]) -> list[Block]:
    """Without tests, from what a table of runs knows."""
    groups, differing = groups_of(runs)
    header = ["runs", "model", "data", *differing, "metric", "n", "mean", "standard deviation", "95 % interval"]
    rows = [
        [
            group["runs"], group["model"], group["data"], *(chosen(group["settings"][name]) for name in differing),
            group["metric"], group["count"], group["mean"], group["std"], _interval(group["interval"]),
        ]
        for group in groups
    ]  # fmt: skip
    told = f"{len(runs):,} runs are too many for tests: name at most {MOST}."
    return [
        Text(told),
        Table("finished runs with equal settings apart from the seed, at their best checkpoints", header, rows),
    ]


def _interval(interval: Any) -> Any:
    if interval is None:
        return None
    low, high = interval
    return Cell(f"{number(low)} to {number(high)}", (low + high) / 2)


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"
