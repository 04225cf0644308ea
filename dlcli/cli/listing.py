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
            Column("summary", "what it is"),
            Column("takes", "takes"),
            Column("data", "default data"),
            Column("defaults", "its own defaults"),
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
            Column("summary", "what it is"),
            Column("task", "task"),
            Column("shape", "a sample"),
            Column("size", "samples", right=True),
            Column("licence", "licence"),
            Column("origin", "where it comes from"),
        ],
        format=format,
    )
