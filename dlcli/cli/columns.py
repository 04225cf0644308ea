"""Columns that the tables of several commands share."""

from collections.abc import Mapping, Sequence
from typing import Any

from dlcli.cli.output import Column

RUN = Column("run", "run", right=True, fixed=True)

# The run and its result.
OUTCOME = [
    RUN,
    Column("status", "status"),
    Column("model", "model"),
    Column("data", "data", drop=3),
    Column("epochs", "epochs", right=True, drop=9),
    Column("metric", "metric", drop=1),
    Column("best", "best", right=True),
]


def outcome(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """OUTCOME, with a column for the names of the runs if one of them has a name."""
    name = [Column("name", "name", fixed=True)] if any(row["name"] for row in rows) else []
    return [RUN, *name, *OUTCOME[1:]]
