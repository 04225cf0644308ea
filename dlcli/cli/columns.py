"""Columns that the tables of several commands share."""

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
