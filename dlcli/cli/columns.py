"""Columns that the tables of several commands share."""

from collections.abc import Mapping, Sequence
from typing import Any

from dlcli.cli.output import Column

RUN = Column("run", "run", right=True, fixed=True)

# What a run is, and what it has reached.
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
    """OUTCOME, with the names of the runs where one of them has a name."""
    name = [Column("name", "name", fixed=True)] if any(row["name"] for row in rows) else []
    return [RUN, *name, *OUTCOME[1:]]
