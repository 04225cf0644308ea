"""dlcli models, dlcli datasets: what is built in."""

from dlcli.cli.arguments import with_format
from dlcli.cli.output import Column, Format, emit
from dlcli.config.registry import DATASETS, MODELS


@with_format
def models(*, format: Format) -> None:
    """List the built-in models."""
    rows = [
        {"model": name, "summary": e.summary, "takes": e.takes, "data": e.data, "defaults": dict(e.defaults)}
        for name, e in MODELS.items()
    ]
    emit(
        [
            {**row, "defaults": ", ".join(f"{k}={v}" for k, v in MODELS[str(row["model"])].defaults.items())}
            for row in rows
        ],
        [
            Column("model", "model", fixed=True),
            Column("summary", "what it is", cut=45),
            Column("takes", "takes", cut=30, drop=2),
            Column("data", "default data", drop=1),
            Column("defaults", "its own defaults", cut=30, drop=3),
        ],
        format=format,
        document=rows,
    )


@with_format
def datasets(*, format: Format) -> None:
    """List the built-in data sets."""
    rows = [
        {
            "data": "text:FILE" if name == "text" else name,
            "summary": e.summary,
            "task": e.task,
            "shape": e.shape,
            "size": e.size,
            "licence": e.licence,
            "origin": e.origin,
        }
        for name, e in DATASETS.items()
    ]
    emit(
        rows,
        [
            Column("data", "data", fixed=True),
            Column("summary", "what it is", cut=28),
            Column("task", "task", drop=1),
            Column("shape", "a sample", drop=2),
            Column("size", "samples", right=True, drop=3),
            Column("licence", "licence", drop=4),
            Column("origin", "where it comes from", cut=20, drop=5),
        ],
        format=format,
    )
