"""All runs of the report in one table."""

from collections.abc import Collection, Sequence
from typing import Any

from dlcli.core.wording import duration
from dlcli.report.blocks import Cell, Section, Table, Text, chosen
from dlcli.runs.run import Run


def summary(
    runs: Sequence[Run], rows: Sequence[dict[str, Any]], differing: Sequence[str], *, described: Collection[Run]
) -> Section:
    """rows, differing: see `differences.rows_of`. described: the runs that have a chapter of their own, to which their
    numbers lead."""
    several = len({run.root for run in runs}) > 1
    columns: dict[str, list[Any]] = {
        "run": [
            Cell(
                str(run) if several else str(run.number), run.number, link=anchor(runs, run) if run in described else ""
            )
            for run in runs
        ],
        **{name: [row[name] for row in rows] for name in ("name", "status", "model", "data")},
        "metric": [row["metric"] for row in rows],
        "best": [row["best"] for row in rows],
        "test": [_measured(row) for row in rows],
        **{name: [chosen(row["settings"][name]) for row in rows] for name in differing},
        "epochs": [row["epochs"] for row in rows],
        "at epoch": [row["best_epoch"] for row in rows],
        "time": [None if row["seconds"] is None else Cell(duration(row["seconds"]), row["seconds"]) for row in rows],
        "device": [row["device"] for row in rows],
        "started": [row["started"] for row in rows],
        "tags": [row["tags"] or None for row in rows],
        "note": [row["note"] for row in rows],
        "reason": [row["reason"] for row in rows],
    }
    kept = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    table = Table(
        f"{len(runs):,} runs, with the settings in which they differ", [*kept], [*zip(*kept.values(), strict=True)]
    )
    unusual = [row for row in rows if row["status"] != "finished"]
    told = f"{len(unusual):,} of {len(runs):,} runs have not finished; their reason, if known, is in the table."
    return Section("Runs", [*([Text(told)] if unusual else []), table])


def anchor(runs: Sequence[Run], run: Run) -> str:
    """Unique among `runs`, which may be of several folders."""
    same = [other for other in runs if other.number == run.number]
    return f"run-{run.number}" + (f"-{same.index(run) + 1}" if len(same) > 1 else "")


def _measured(row: dict[str, Any]) -> Any:
    """What `dlcli eval` measured; with its name if it is not the metric that chose the best checkpoint."""
    test = row["test"]
    if test is None:
        return None
    if row["metric"] in (test["metric"], f"val/{test['metric']}"):
        return float(test["value"])
    return Cell(f"{test['metric']} {test['value']:.4g}", test["value"])
