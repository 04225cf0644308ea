"""All runs as a pandas frame, for notebooks."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from dlcli.config.settings import TrainConfig
from dlcli.runs.differences import rows_with_settings
from dlcli.runs.table import COLUMNS

if TYPE_CHECKING:
    import pandas

_ORDER = {field.name: place for place, field in enumerate(fields(TrainConfig))}


def frame(root: str | Path = "runs") -> "pandas.DataFrame":
    """One row per run, newest first, indexed by its number.

    Columns: those of the table (`runs.table.COLUMNS`), then all settings by name (`lr`, `model.hidden`), then all
    metrics (`val/loss` at the last evaluation, but the best one at the best checkpoint; `test/accuracy` as `dlcli eval`
    measured it). A run has NaN or None for what it does not have. The columns of the table win over settings of the
    same name: `epochs` is 3/10, done of all. The row of a broken run has a `reason`.
    """
    import pandas

    found = rows_with_settings(root)
    settings = {name for _, values in found for name in values} - {*COLUMNS, "format", "given"}
    metrics = {name for row, _ in found for name in row["metrics"]} - {*COLUMNS, *settings}
    columns = [*COLUMNS, *sorted(settings, key=lambda name: (_ORDER.get(name, len(_ORDER)), name)), *sorted(metrics)]
    rows = [{**row["metrics"], **values, **{name: row[name] for name in COLUMNS}} for row, values in found]
    return pandas.DataFrame(rows, columns=columns).set_index("run")
