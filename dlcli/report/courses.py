"""The curves of runs, over each other and as means over the seeds."""

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from dlcli.core.errors import DlcliError
from dlcli.plots.curves import curves
from dlcli.plots.thinning import evenly
from dlcli.report.blocks import Block, Drawing, Fold, Section, Table, Text
from dlcli.report.facts import Facts
from dlcli.runs import metrics
from dlcli.runs.compare import Result, group_by_config
from dlcli.runs.run import Run

_MOST_ROWS, _MOST_COLUMNS, _MOST_BYTES = 50, 40, 5_000_000  # of a table of numbers


def courses(runs: Sequence[Run], rows: Sequence[dict[str, Any]]) -> Section:
    """The curves of runs with the same data and metric over each other; first, if some differ only in their seeds, the
    means of these. rows: see `differences.rows_of`. Nothing of a run that is alone: its chapter has its curves."""
    pools: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run, row in zip(runs, rows, strict=True):
        if row["data"] is not None:
            pools[str(row["data"]), str(row["metric"])].append(run)
    blocks: list[Block] = []
    for (data, _), members in pools.items():
        if len(members) > 1:
            blocks += [Text(f"On {data}:")] if len(pools) > 1 else []
            each = _drawn(members)
            blocks += [*_drawn(members, grouped=True), Fold("Each run", each)] if _have_seeds(members) else each
    return Section("Curves", blocks)


def course(one: Facts) -> Section:
    """The curves of one run, its learning rate, and the numbers."""
    rate = _drawn([one.run], what="lr")
    more = [*([Fold("Learning rate", rate)] if rate else []), *_numbers(one)]
    return Section("Curves", [*_drawn([one.run]), *more])


def _have_seeds(runs: Sequence[Run]) -> bool:
    """Whether some runs differ only in their seeds."""
    results = []
    for run in runs:
        with contextlib.suppress(DlcliError):
            stored = run.settings()
            results.append(Result(run, stored.get("seed"), stored, None))
    return any(len(group.results) > 1 for group in group_by_config(results, first=[]))


def _drawn(runs: Sequence[Run], *, what: str = "curves", grouped: bool = False) -> list[Block]:
    try:
        picture = curves(runs, what=what, x=_along(runs), grouped=grouped)
    except DlcliError as error:
        return [] if what == "lr" else [Text(f"There are no curves: {error}.")]
    return [Drawing(picture)]


def _along(runs: Sequence[Run]) -> str:
    """Steps if a training was given as a number of them, else epochs."""
    for run in runs:
        with contextlib.suppress(DlcliError):
            if run.settings().get("steps") is not None:
                return "step"
    return "epoch"


def _numbers(one: Facts) -> list[Block]:
    """Rows of metrics.csv, evenly chosen if there are many; none of a very long file."""
    file = one.run.metrics_file
    try:
        if file.stat().st_size > _MOST_BYTES:
            return []
        names = metrics.columns(file)[:_MOST_COLUMNS]
        rows = [row for block in metrics.stream(file, names) for row in zip(*block, strict=True)]
    except (DlcliError, OSError):
        return []  # the curves say why
    if not rows:
        return []
    told = [
        [int(v) if v is not None and n in ("epoch", "step") else v for n, v in zip(names, row, strict=True)]
        for row in evenly(rows, most=_MOST_ROWS)
    ]
    which = f"{len(told)} of {len(rows):,} rows of metrics.csv" if len(told) < len(rows) else "metrics.csv"
    return [Fold("Numbers", [Table(which, names, told)])]
