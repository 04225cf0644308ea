"""dlcli datasets inspect: draws what would be made of a data set."""

from collections.abc import Mapping
from typing import Any

from dlcli.cli.output import Column, Format, emit, say
from dlcli.config.settings import TrainConfig

_COLUMNS = [
    Column("name", "column", fixed=True),
    Column("type", "type"),
    Column("missing", "missing", lambda count: f"{count:,}", right=True),
    Column("distinct", "distinct", lambda count: f"{count:,}", right=True, drop=1),
    Column("examples", "examples", cut=24, drop=2),
    Column("treatment", "treatment"),
]


def inspect(layer: Mapping[str, Any], *, format: Format) -> None:
    """layer: settings, with the data. A row for each column of a table, or for each class of other data; the rest is
    said on stderr, or stands in the JSON document."""
    config = TrainConfig.from_flat({"model": "mlp", **layer})
    from dlcli.experiment.inspect import inspect

    found = inspect(config)
    if found["columns"]:
        rows = [row | {"examples": ", ".join(row["examples"])} for row in found["columns"]]
        emit(rows, _COLUMNS, format=format, document=found)
    else:
        rows = [{"class": name, **counts} for name, counts in found["classes"].items()]
        columns = [Column("class", "class"), *(Column(name, name, right=True) for name in found["splits"])]
        emit(rows, columns, format=format, document=found)
    if format is Format.json:
        return
    splits = ", ".join(f"{count:,} {name}" for name, count in found["splits"].items())
    say(f"{config.data}: {found['task']} on {found['sample']}; {splits} samples")
    for line in [*found["notes"], *found["warnings"]]:
        say(line)
